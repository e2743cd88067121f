// From a tensor's run-time element type to a kernel's compile-time one.
#pragma once

#include <algorithm>

#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"

namespace trireme {

// Calls body with a null float* or a null BFloat16*, whose type is the element type. CHECKs that
// the tensor is f32 or bf16.
template <typename Body>
void WithFloatType(DType dtype, const Body& body) {
  if (dtype == DType::kBF16) {
    body(static_cast<BFloat16*>(nullptr));
  } else {
    CHECK(dtype == DType::kF32) << DTypeName(dtype) << ", expected float32 or bfloat16";
    body(static_cast<float*>(nullptr));
  }
}
template <typename Body>
void WithFloatTypes(DType a, DType b, const Body& body) {
  WithFloatType(a, [&](auto* x) { WithFloatType(b, [&](auto* y) { body(x, y); }); });
}

inline int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Calls body(row) for each of `rows`, in parallel blocks of `kBlock` rows.
template <int64_t kBlock, typename Body>
void RowBlocks(Stream& stream, int64_t rows, const Body& body) {
  stream.ParallelFor(CeilDivide(rows, kBlock), [&](int64_t block) {
    for (int64_t n = block * kBlock; n < std::min(rows, (block + 1) * kBlock); ++n) body(n);
  });
}

// CHECKs that all dims are as `like`.
inline void CheckSameShape(const Tensor& tensor, const Tensor& like, const char* name) {
  CHECK(tensor.shape() == like.shape()) << name << ": another shape";
}

}  // namespace trireme
