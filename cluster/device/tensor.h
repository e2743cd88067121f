// Tensor: a view of contiguous row-major memory with a shape and an element type. It owns nothing.
#pragma once

#include <glog/logging.h>

#include <array>
#include <cstddef>
#include <initializer_list>
#include <string>

#include "cluster/base/box.h"
#include "cluster/device/dtype.h"

namespace trireme {

enum class DeviceKind : uint8_t { kCpu, kCuda };

class Tensor {
 public:
  static constexpr int kMaxRank = 5;

  Tensor() = default;
  Tensor(void* data, DType dtype, std::initializer_list<int64_t> dims,
         DeviceKind device = DeviceKind::kCpu);
  Tensor(void* data, DType dtype, const Shape& shape, DeviceKind device = DeviceKind::kCpu);

  bool defined() const { return data_ != nullptr; }
  DType dtype() const { return dtype_; }
  DeviceKind device() const { return device_; }
  int rank() const { return rank_; }
  int64_t dim(int i) const { return dims_[i < 0 ? rank_ + i : i]; }
  int64_t elements() const;
  int64_t bytes() const { return elements() * ByteSize(dtype_); }
  Shape shape() const { return Shape(dims_.begin(), dims_.begin() + rank_); }

  void* data() const { return data_; }
  std::byte* bytes_data() const { return static_cast<std::byte*>(data_); }
  // The typed pointer. CHECKs the element type.
  template <typename T>
  T* as() const {
    CHECK(dtype_ == DTypeOf<T>::value) << DTypeName(dtype_);
    return static_cast<T*>(data_);
  }

  // Rows [begin, end) of dim 0, sharing memory.
  Tensor Rows(int64_t begin, int64_t end) const;
  // The same elements under another shape. CHECKs the count.
  Tensor View(std::initializer_list<int64_t> dims) const;

 private:
  void* data_ = nullptr;
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
  DType dtype_ = DType::kF32;
  DeviceKind device_ = DeviceKind::kCpu;
};

}  // namespace trireme
