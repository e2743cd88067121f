// One matrix product on the calling thread, by oneDNN: the building block of MatMul and of the
// attention tiles.
#pragma once

#include <cstdint>

#include "cluster/device/dtype.h"

namespace trireme {

// c[m, n] = op(a)[m, k] op(b)[k, n] (+ c) (+ bias). Row strides (lda, ldb, ldc) in elements.
struct GemmCall {
  const void* a = nullptr;
  const void* b = nullptr;
  void* c = nullptr;
  const float* bias = nullptr;  // [n], or null
  int64_t m = 0, n = 0, k = 0;
  int64_t lda = 0, ldb = 0, ldc = 0;
  DType input = DType::kF32;   // of a and b: kF32 or kBF16
  DType output = DType::kF32;  // of c: kF32 or kBF16
  bool transpose_a = false, transpose_b = false;
  bool accumulate = false;
};

// True where f32 operands are read in place, row by row (machines without AVX-512): rows of an
// operand that is used again and again then had better not begin at the same lines of the caches.
bool GemmReadsInPlace();

// Runs on the calling thread alone. Equal calls give equal bits. Compiled kernels are kept a
// thread, so a shape's first call is slow. m, n and k are positive.
void Gemm(const GemmCall& call);

}  // namespace trireme
