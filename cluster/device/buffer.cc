#include "cluster/device/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace trireme {
namespace {

std::atomic<int64_t> bytes_now{0};
std::atomic<int64_t> bytes_max{0};

void Count(int64_t change) {
  const int64_t now = bytes_now.fetch_add(change) + change;
  int64_t seen = bytes_max.load();
  while (now > seen && !bytes_max.compare_exchange_weak(seen, now)) {
  }
}

// Large buffers come zeroed from the kernel and want huge pages: the products stride through them.
constexpr int64_t kMapBytes = int64_t{1} << 20;

}  // namespace

MemoryUse BufferMemory() { return {bytes_now.load(), bytes_max.load()}; }

Buffer::Buffer(int64_t bytes, DeviceKind device) : bytes_(bytes), device_(device) {
  CHECK(device == DeviceKind::kCpu) << "this build has no CUDA";
  CHECK_GE(bytes, 0);
  if (bytes == 0) return;
  if (bytes >= kMapBytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED) << "out of memory: " << bytes << " bytes wanted";
    madvise(memory, bytes, MADV_HUGEPAGE);
    data_ = static_cast<std::byte*>(memory);
  } else {
    data_ = static_cast<std::byte*>(std::aligned_alloc(64, Arena::RoundUp(bytes)));
    CHECK(data_ != nullptr) << "out of memory: " << bytes << " bytes wanted";
    std::memset(data_, 0, bytes);
  }
  Count(bytes_);
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (bytes_ >= kMapBytes) {
    munmap(data_, bytes_);
  } else {
    std::free(data_);
  }
  Count(-bytes_);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)),
      device_(other.device_) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  return *this;
}

Tensor Buffer::AsTensor(DType dtype, const Shape& shape) const {
  CHECK_LE(ElementCount(shape) * ByteSize(dtype), bytes_) << ShapeToString(shape);
  return Tensor(data_, dtype, shape, device_);
}

Arena::Arena(int64_t capacity_bytes, DeviceKind device) : buffer_(capacity_bytes, device) {}

Arena Arena::Measuring() {
  Arena arena;
  arena.measuring_ = true;
  return arena;
}

Tensor Arena::Allocate(DType dtype, const Shape& shape) {
  const int64_t bytes = RoundUp(ElementCount(shape) * ByteSize(dtype));
  CHECK(measuring_ || used_ + bytes <= buffer_.bytes())
      << "arena of " << buffer_.bytes() << " bytes is full";
  Tensor tensor(measuring_ ? nullptr : buffer_.data() + used_, dtype, shape, buffer_.device());
  used_ += bytes;
  used_max_ = std::max(used_max_, used_);
  return tensor;
}

void Arena::Release(int64_t mark) {
  CHECK(0 <= mark && mark <= used_);
  used_ = mark;
}

}  // namespace trireme
