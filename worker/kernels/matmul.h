// Matrix products by oneDNN, and by cuBLASLt on GPUs. On a CPU bits do not depend on the number of
// threads: single-threaded library calls on fixed panels of the result, the panels spread over the
// stream's threads.
#pragma once

#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"

namespace trireme {

// A row-major matrix inside a larger one: element (r, c) is at data + r * row_stride + c.
struct Matrix {
  void* data;
  DType dtype;  // kF32 or kBF16
  int64_t rows;
  int64_t columns;
  int64_t row_stride;

  // The whole of a tensor, its dims before the last joined to rows.
  static Matrix Of(const Tensor& tensor);
  // Dim 0 as rows, all others joined to columns.
  static Matrix OfRows(const Tensor& tensor);
  // Columns [begin, end).
  Matrix Columns(int64_t begin, int64_t end) const;
  Matrix Rows(int64_t begin, int64_t end) const;
};

enum class Transpose : bool { kNo, kYes };

// c[M, N] = op(a)[M, K] op(b)[K, N] (+ c when accumulate) (+ bias[N] broadcast over rows).
//
// a, b: both f32 or both bf16. c: f32, or bf16 (rounded once from the f32 sum; not with
// accumulate). bias: f32 or undefined. No aliasing between c and the others. Ordered on `stream`.
// CHECKs shapes. On a GPU equal calls give equal bits as long as the library proposes or the cache
// of measured algorithms holds the same one (matmul_cuda.cc), and a bias that is added to a bf16 c
// is rounded to bf16 first.
void MatMul(Stream& stream, const Matrix& a, Transpose transpose_a, const Matrix& b,
            Transpose transpose_b, const Matrix& c, bool accumulate = false,
            const Tensor& bias = Tensor());

// pre = a op(b) + bias, y = gelu(pre), the tanh form: MatMul and GeluForward (activation.h) in one.
//
// pre, y: [M, N], both f32 or both bf16. The rest as MatMul's. On a CPU the bits are those of the
// two. On a GPU, where cuBLASLt's epilogue takes the call (bf16, N a multiple of 8, tensors at
// multiples of 16 bytes), y is made of the sum before it is rounded to pre.
void MatMulGelu(Stream& stream, const Matrix& a, const Matrix& b, Transpose transpose_b,
                const Tensor& bias, const Tensor& pre, const Tensor& y);
// dpre = (dy op(b)) * gelu'(pre): MatMul and GeluBackward in one, where `pre` is MatMulGelu's and b
// the weight of the product that takes its y.
//
// pre, dpre: [M, N], both f32 or both bf16, no aliasing. On a GPU the product is not rounded before
// it is multiplied, where the epilogue takes the call.
void MatMulGeluBackward(Stream& stream, const Matrix& dy, const Matrix& b, Transpose transpose_b,
                        const Tensor& pre, const Tensor& dpre);

// The library's name and version, for manifests and doctor: "oneDNN 2.6.3".
const char* MatMulLibrary();

}  // namespace trireme
