// Shared memory of a block, with bounds and the order of every access checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

namespace trireme::simt {

// Who touched an element, and when: after how many barriers of the block, and at which point of the
// thread's own time, which __syncwarp moves on.
struct AccessPoint {
  int32_t thread = -1;
  uint32_t epoch = 0;
  uint32_t time = 0;
};

// One __shared__ array. An access that another thread's access of the same element is not ordered
// with is an error when one of the two writes; so is reading what nobody wrote.
class SharedRecord {
 public:
  SharedRecord(const char* name, int64_t count, int64_t element_bytes);

  // CHECK-like: throw KernelError. `index` in elements.
  const std::byte* Read(int64_t index);
  std::byte* Write(int64_t index);
  const char* name() const { return name_; }
  int64_t bytes() const { return static_cast<int64_t>(data_.size()); }
  // As at the start of a block: nothing is written.
  void Forget();

 private:
  struct Element {
    AccessPoint writer;
    std::vector<AccessPoint> readers;  // since the last write, of the epoch `reader_epoch`
    uint32_t reader_epoch = 0;
  };
  void CheckBounds(int64_t index) const;
  [[noreturn]] void Race(int64_t index, const char* now, const char* before, int thread) const;

  const char* name_;
  int64_t element_bytes_;
  std::vector<std::byte> data_;
  std::vector<Element> elements_;
};

// All shared arrays of a block. An array is known by the address of its declaration's tag, so the
// same declaration is the same memory for all threads, as in CUDA.
class SharedMemory {
 public:
  SharedRecord* Array(const void* tag, const char* name, int64_t count, int64_t element_bytes);
  void Forget();

 private:
  struct Entry {
    const void* tag;
    std::unique_ptr<SharedRecord> record;
  };
  std::vector<Entry> arrays_;
  int64_t bytes_ = 0;
};

SharedRecord* CurrentSharedArray(const void* tag, const char* name, int64_t count,
                                 int64_t element_bytes);

// name[i]: reads when it becomes a T, writes when it is assigned. Cannot be kept (`auto x =
// name[i]` would read later than it says): every operation wants a temporary.
template <typename T>
class SharedElement {
 public:
  SharedElement(SharedRecord* record, int64_t index) : record_(record), index_(index) {}
  SharedElement(const SharedElement&) = delete;

  operator T() && { return Value(); }  // NOLINT: implicit on purpose
  void operator=(const T& value) && { Set(value); }
  void operator=(SharedElement&& other) && { Set(other.Value()); }
  void operator+=(const T& value) && { Set(Value() + value); }
  void operator-=(const T& value) && { Set(Value() - value); }
  void operator*=(const T& value) && { Set(Value() * value); }

 private:
  T Value() const {
    T value;
    std::memcpy(&value, record_->Read(index_), sizeof(T));
    return value;
  }
  void Set(const T& value) const { std::memcpy(record_->Write(index_), &value, sizeof(T)); }

  SharedRecord* record_;
  int64_t index_;
};

// What a shared array is to those it is passed to: a pointer into it.
template <typename T>
class SharedPointer {
 public:
  SharedPointer(SharedRecord* record, int64_t index) : record_(record), index_(index) {}

  SharedElement<T> operator[](int64_t i) const { return {record_, index_ + i}; }
  SharedElement<T> operator*() const { return {record_, index_}; }
  SharedPointer operator+(int64_t i) const { return {record_, index_ + i}; }
  int64_t index() const { return index_; }

 private:
  static_assert(std::is_trivially_copyable_v<T>);
  SharedRecord* record_;
  int64_t index_;
};

}  // namespace trireme::simt
