// SharedMemory: memory without a name that the processes of one host share. Others map it by its
// owner's descriptor (/proc/PID/fd), which the kernel allows to whoever may read the owner's
// memory. So nothing is left behind by processes that die, and what is mapped stays valid without
// them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cluster/base/status.h"

namespace trireme {

class SharedMemory {
 public:
  SharedMemory() = default;
  ~SharedMemory();
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;

  // `bytes` of zeros, which take no memory until they are touched. kUnavailable where the kernel
  // gives none. `name` shows in /proc alone.
  static Result<SharedMemory> Make(const char* name, int64_t bytes);
  // What process `pid` made as `descriptor`. kUnavailable: it cannot be opened, or has another
  // size.
  static Result<SharedMemory> Open(int64_t pid, int descriptor, int64_t bytes);

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  int descriptor() const { return descriptor_; }  // of the maker; -1 where it was opened

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  int descriptor_ = -1;
};

}  // namespace trireme
