// Buffer: owned device memory. Arena: a stack of tensors inside one buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "cluster/device/tensor.h"

namespace trireme {

// Bytes alive in Buffers of this process, and the most there ever were: what `memory_bytes_max`
// and the plan's prediction speak of. Thread-safe.
struct MemoryUse {
  int64_t bytes_now;
  int64_t bytes_max;
};
// Of the host, pinned memory included.
MemoryUse BufferMemory();
// Of one GPU.
MemoryUse BufferMemoryOfGpu(int gpu);
// The most that operations of the GPU have taken at one time beside Buffers, for their own length.
int64_t OperationBytesMaxOfGpu(int gpu);
// Where the Buffers of this process are and what for, a line a place and purpose, largest first:
//   gpu 0   weights      1.25 GiB  (at most 1.25 GiB)
std::string MemoryTable();

// Memory of a device, zeroed, aligned to 64 bytes on a CPU and 256 on a GPU: the calling thread's
// GPU, see Stream. Move-only. The process ends with one line when the device has none left.
class Buffer {
 public:
  Buffer() = default;
  // `purpose`: a literal, for the memory table.
  explicit Buffer(int64_t bytes, DeviceKind device = DeviceKind::kCpu,
                  const char* purpose = "other");
  // Host memory that GPUs copy to and from without staging, so that copies overlap the host's work.
  // Dear to make: for memory that stays. For programs that run on a GPU.
  static Buffer Pinned(int64_t bytes, const char* purpose = "transfers");
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;

  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }
  DeviceKind device() const { return device_; }
  // A view of the first elements of the buffer. CHECKs that they fit.
  Tensor AsTensor(DType dtype, const Shape& shape) const;

 private:
  enum class Place : uint8_t { kHost, kPinned, kGpu };
  void Free();

  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
  DeviceKind device_ = DeviceKind::kCpu;
  Place place_ = Place::kHost;
  int gpu_ = -1;
  const char* purpose_ = "other";
};

// Hands out tensors from one buffer, last in, first out. Not thread-safe. A measuring arena has no
// buffer: its tensors are undefined and it only counts, so that what is planned and what is
// allocated come from the same code.
class Arena {
 public:
  Arena() = default;  // nothing fits
  explicit Arena(int64_t capacity_bytes, DeviceKind device = DeviceKind::kCpu,
                 const char* purpose = "scratch");
  static Arena Measuring();

  // Uninitialised memory, 64-byte aligned. CHECKs the capacity.
  Tensor Allocate(DType dtype, const Shape& shape);
  // Allocate, then Release(Mark()) gives everything since back.
  int64_t Mark() const { return used_; }
  void Release(int64_t mark);
  int64_t used_bytes_max() const { return used_max_; }
  int64_t capacity_bytes() const { return buffer_.bytes(); }

  // Bytes that an Allocate of this many bytes takes.
  static int64_t RoundUp(int64_t bytes) { return (bytes + 63) / 64 * 64; }

 private:
  Buffer buffer_;
  bool measuring_ = false;
  int64_t used_ = 0;
  int64_t used_max_ = 0;
};

}  // namespace trireme
