// What every kernel test needs: owned tensors with reproducible content, views in double, and the
// run of a kernel on 1, 2 and 3 threads whose bits must be equal.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/device/buffer.h"
#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"

namespace trireme {

// A tensor with its memory. Copies copy the content.
class Owned {
 public:
  Owned() = default;
  Owned(DType dtype, const Shape& shape) : dtype_(dtype), shape_(shape) {
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    bytes_.resize(count * ByteSize(dtype));
  }

  // Uniform in [-scale, scale], rounded to the dtype; the same for the same seed.
  static Owned Random(DType dtype, const Shape& shape, uint32_t seed, double scale = 1.0) {
    Owned tensor(dtype, shape);
    std::mt19937 bits(seed * 7919 + 17);
    std::uniform_real_distribution<double> uniform(-scale, scale);
    for (int64_t i = 0; i < tensor.elements(); ++i) tensor.Set(i, uniform(bits));
    return tensor;
  }

  int64_t elements() const { return bytes_.size() / ByteSize(dtype_); }
  Tensor view() const { return Tensor(const_cast<std::byte*>(bytes_.data()), dtype_, shape_); }
  operator Tensor() const { return view(); }  // NOLINT: implicit on purpose
  template <typename T>
  T* as() const {
    return view().as<T>();
  }
  void Set(int64_t i, double value) {
    switch (dtype_) {
      case DType::kF32:
        as<float>()[i] = static_cast<float>(value);
        return;
      case DType::kBF16:
        as<BFloat16>()[i] = ToBFloat16(static_cast<float>(value));
        return;
      default:
        as<int32_t>()[i] = static_cast<int32_t>(value);
    }
  }
  double At(int64_t i) const {
    switch (dtype_) {
      case DType::kF32:
        return as<float>()[i];
      case DType::kBF16:
        return ToFloat(as<BFloat16>()[i]);
      default:
        return as<int32_t>()[i];
    }
  }
  std::vector<double> Doubles() const {
    std::vector<double> values(elements());
    for (int64_t i = 0; i < elements(); ++i) values[i] = At(i);
    return values;
  }
  bool operator==(const Owned& other) const { return bytes_ == other.bytes_; }

 private:
  std::vector<std::byte> bytes_;
  DType dtype_ = DType::kF32;
  Shape shape_;
};

// |actual - expected| <= absolute + relative * |expected|, everywhere; reports the worst element.
inline void ExpectNear(const Owned& actual, const std::vector<double>& expected, double absolute,
                       double relative, const std::string& what) {
  ASSERT_EQ(actual.elements(), static_cast<int64_t>(expected.size())) << what;
  double worst = 0;
  int64_t where = -1;
  for (int64_t i = 0; i < actual.elements(); ++i) {
    const double excess =
        std::abs(actual.At(i) - expected[i]) / (absolute + relative * std::abs(expected[i]));
    if (!(excess <= worst)) {
      worst = excess;
      where = i;
      if (std::isnan(excess)) break;
    }
  }
  EXPECT_TRUE(worst <= 1.0) << what << ": element " << where << " is " << actual.At(where)
                            << ", expected " << expected[where] << " (" << worst
                            << " times the tolerance)";
}

// Half a unit in the last place of a value near 1.
inline double Rounding(DType dtype) { return dtype == DType::kBF16 ? 1.0 / 256 : 6e-8; }

// Runs `kernel` on 1, 2 and 3 threads; returns the tensors of the first run. All runs must give
// the same bits.
inline std::vector<Owned> RunOnThreads(const std::function<std::vector<Owned>(Stream&)>& kernel) {
  Stream one(1);
  const std::vector<Owned> first = kernel(one);
  for (int threads = 2; threads <= 3; ++threads) {
    Stream stream(threads);
    const std::vector<Owned> other = kernel(stream);
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_TRUE(first[i] == other[i]) << "tensor " << i << " with " << threads << " threads";
    }
  }
  return first;
}

// d loss / d x[i] by central differences, for i at a stride; loss runs in double.
inline double Difference(const std::function<double(const std::vector<double>&)>& loss,
                         std::vector<double> x, int64_t i, double step = 1e-5) {
  const double x_i = x[i];
  x[i] = x_i + step;
  const double above = loss(x);
  x[i] = x_i - step;
  const double below = loss(x);
  return (above - below) / (2 * step);
}

}  // namespace trireme
