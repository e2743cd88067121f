#include "cluster/comm/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace trireme {
namespace {

std::byte* Map(int descriptor, int64_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<std::byte*>(memory);
}

Status KernelError(const std::string& what) {
  return UnavailableError(StrCat(what, ": ", std::strerror(errno)));
}

}  // namespace

SharedMemory::SharedMemory(SharedMemory&& other) noexcept { *this = std::move(other); }

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

SharedMemory::~SharedMemory() {
  if (data_ != nullptr) munmap(data_, bytes_);
  if (descriptor_ >= 0) close(descriptor_);
}

Result<SharedMemory> SharedMemory::Make(const char* name, int64_t bytes) {
  SharedMemory made;
  made.descriptor_ = memfd_create(name, MFD_CLOEXEC);
  if (made.descriptor_ < 0 || ftruncate(made.descriptor_, bytes) != 0) {
    return KernelError(StrCat("memory for ", name));
  }
  made.data_ = Map(made.descriptor_, bytes);
  if (made.data_ == nullptr) return KernelError(StrCat("mapping ", name));
  made.bytes_ = bytes;
  return made;
}

Result<SharedMemory> SharedMemory::Open(int64_t pid, int descriptor, int64_t bytes) {
  const std::string path = StrCat("/proc/", pid, "/fd/", descriptor);
  const int opened = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (opened < 0) return KernelError(path);
  SharedMemory mapped;
  const int64_t size = lseek(opened, 0, SEEK_END);
  if (size == bytes) mapped.data_ = Map(opened, bytes);
  close(opened);
  if (mapped.data_ == nullptr) {
    return UnavailableError(
        StrCat(path, " is no memory of this job: ", size, " bytes, expected ", bytes));
  }
  mapped.bytes_ = bytes;
  return mapped;
}

}  // namespace trireme
