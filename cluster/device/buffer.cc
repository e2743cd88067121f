#include "cluster/device/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "cluster/device/cuda_device.h"

namespace trireme {
namespace {

// Bytes by place and purpose. Places: "host", "pinned", "gpu 0", ... Never destroyed: Buffers may
// outlive it otherwise.
struct Account {
  void Add(MemoryUse& use, int64_t change) {
    use.bytes_now += change;
    use.bytes_max = std::max(use.bytes_max, use.bytes_now);
  }
  std::mutex mutex;
  MemoryUse host{};
  std::map<int, MemoryUse> gpus;
  std::map<std::pair<std::string, std::string>, MemoryUse> uses;
};
Account& TheAccount() {
  static Account& account = *new Account;
  return account;
}

void Count(const char* place, int gpu, const char* purpose, int64_t change) {
  Account& account = TheAccount();
  std::lock_guard lock(account.mutex);
  account.Add(gpu < 0 ? account.host : account.gpus[gpu], change);
  const std::string name = gpu < 0 ? place : StrCat(place, " ", gpu);
  account.Add(account.uses[{name, purpose}], change);
}

std::string BytesText(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB"};
  double amount = static_cast<double>(bytes);
  int unit = 0;
  for (; amount >= 1024 && unit < 3; ++unit) amount /= 1024;
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.2f %s", amount, kUnits[unit]);
  return text;
}

// Large buffers come zeroed from the kernel and want huge pages: the products stride through them.
constexpr int64_t kMapBytes = int64_t{1} << 20;

}  // namespace

MemoryUse BufferMemory() {
  std::lock_guard lock(TheAccount().mutex);
  return TheAccount().host;
}

MemoryUse BufferMemoryOfGpu(int gpu) {
  std::lock_guard lock(TheAccount().mutex);
  const auto found = TheAccount().gpus.find(gpu);
  return found == TheAccount().gpus.end() ? MemoryUse{} : found->second;
}

int64_t OperationBytesMaxOfGpu(int gpu) { return cuda::OperationBytesMax(gpu); }

std::string MemoryTable() {
  using Entry = std::pair<std::pair<std::string, std::string>, MemoryUse>;
  std::vector<Entry> entries;
  {
    std::lock_guard lock(TheAccount().mutex);
    entries.assign(TheAccount().uses.begin(), TheAccount().uses.end());
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return a.second.bytes_max > b.second.bytes_max;
  });
  std::string table;
  for (const auto& [name, use] : entries) {
    char line[160];
    std::snprintf(line, sizeof(line), "%-8s %-16s %12s  (at most %s)\n", name.first.c_str(),
                  name.second.c_str(), BytesText(use.bytes_now).c_str(),
                  BytesText(use.bytes_max).c_str());
    table += line;
  }
  return table;
}

Buffer::Buffer(int64_t bytes, DeviceKind device, const char* purpose)
    : bytes_(bytes), device_(device), purpose_(purpose) {
  CHECK_GE(bytes, 0);
  if (bytes == 0) return;
  if (device == DeviceKind::kCuda) {
    place_ = Place::kGpu;
    gpu_ = cuda::CurrentGpu();
    data_ = static_cast<std::byte*>(cuda::AllocateMemory(gpu_, bytes));
    Count("gpu", gpu_, purpose_, bytes_);
    return;
  }
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
  Count("host", -1, purpose_, bytes_);
}

Buffer Buffer::Pinned(int64_t bytes, const char* purpose) {
  CHECK_GE(bytes, 0);
  Buffer buffer;
  if (bytes == 0) return buffer;
  buffer.data_ = static_cast<std::byte*>(cuda::AllocatePinned(bytes));
  buffer.bytes_ = bytes;
  buffer.place_ = Place::kPinned;
  buffer.purpose_ = purpose;
  Count("pinned", -1, purpose, bytes);
  return buffer;
}

void Buffer::Free() {
  if (data_ == nullptr) return;
  switch (place_) {
    case Place::kGpu:
      cuda::FreeMemory(data_);
      return Count("gpu", gpu_, purpose_, -bytes_);
    case Place::kPinned:
      cuda::FreePinned(data_);
      return Count("pinned", -1, purpose_, -bytes_);
    case Place::kHost:
      if (bytes_ >= kMapBytes) {
        munmap(data_, bytes_);
      } else {
        std::free(data_);
      }
      return Count("host", -1, purpose_, -bytes_);
  }
}

Buffer::~Buffer() { Free(); }

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(device_, other.device_);
  std::swap(place_, other.place_);
  std::swap(gpu_, other.gpu_);
  std::swap(purpose_, other.purpose_);
  return *this;
}

Tensor Buffer::AsTensor(DType dtype, const Shape& shape) const {
  CHECK_LE(ElementCount(shape) * ByteSize(dtype), bytes_) << ShapeToString(shape);
  return Tensor(data_, dtype, shape, device_);
}

Arena::Arena(int64_t capacity_bytes, DeviceKind device, const char* purpose)
    : buffer_(capacity_bytes, device, purpose) {}

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
