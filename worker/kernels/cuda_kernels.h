// The GPU forms of the operations of this folder: the same signatures, contracts and numbers as the
// functions without the prefix, which call them for streams of a GPU. Each backend that a program
// can be linked with (cmake/TriremeCuda.cmake) defines all of them.
#pragma once

#include "worker/kernels/attention.h"
#include "worker/kernels/matmul.h"

namespace trireme::cuda {

// norm.h
void RmsNormForward(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& weight,
                    float eps, const Tensor& x_out, const Tensor& y, const Tensor& inv_rms);
void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight,
                     const Tensor& inv_rms, const Tensor& dx_residual, const Tensor& dx,
                     const Tensor& dweight, bool accumulate);
void LayerNormForward(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& weight,
                      const Tensor& bias, float eps, const Tensor& x_out, const Tensor& y,
                      const Tensor& mean, const Tensor& inv_std);
void LayerNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight,
                       const Tensor& mean, const Tensor& inv_std, const Tensor& dx_residual,
                       const Tensor& dx, const Tensor& dweight, const Tensor& dbias,
                       bool accumulate);

// activation.h
void SwiGluForward(Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& y);
void SwiGluBackward(Stream& stream, const Tensor& dy, const Tensor& gate, const Tensor& up,
                    const Tensor& dgate, const Tensor& dup);
void GeluForward(Stream& stream, const Tensor& x, const Tensor& y);
void GeluBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dx);
void Add(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& y);
void BiasBackward(Stream& stream, const Tensor& dy, const Tensor& dbias, bool accumulate);

// embedding.h
void EmbeddingForward(Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                      const Tensor& y);
void EmbeddingBackward(Stream& stream, const Tensor& ids, const Tensor& dy, int64_t first_row,
                       const Tensor& dtable, bool accumulate);
void PositionEmbeddingForward(Stream& stream, const Tensor& positions, const Tensor& table,
                              const Tensor& y);

// attention.h
void RotaryInPlace(Stream& stream, const Heads& x, const Tensor& positions, const Tensor& cosines,
                   const Tensor& sines, bool inverse);
void AttentionForward(Stream& stream, const Heads& q, const Heads& k, const Heads& v, float scale,
                      const Tensor& document_starts, const Heads& out, const Tensor& log_sum_exp);
void AttentionBackward(Stream& stream, const Heads& dout, const Heads& q, const Heads& k,
                       const Heads& v, const Heads& out, const Tensor& log_sum_exp, float scale,
                       const Tensor& document_starts, const Heads& dq, const Heads& dk,
                       const Heads& dv);
void AppendToCache(Stream& stream, const Heads& x, const Tensor& lengths, const Heads& cache);
void AttentionDecode(Stream& stream, const Heads& q, const Heads& keys, const Heads& values,
                     const Tensor& lengths, float scale, const Heads& out);

// Attention by a library's fused kernel (cuDNN): the same contract, log_sum_exp included, but no
// promise of equal bits between versions or shapes. False, with nothing done, where the library is
// not there or does not take the call; the functions above are the form that always works.
bool FusedAttentionForward(Stream& stream, const Heads& q, const Heads& k, const Heads& v,
                           float scale, const Tensor& document_starts, const Heads& out,
                           const Tensor& log_sum_exp);
bool FusedAttentionBackward(Stream& stream, const Heads& dout, const Heads& q, const Heads& k,
                            const Heads& v, const Heads& out, const Tensor& log_sum_exp,
                            float scale, const Tensor& document_starts, const Heads& dq,
                            const Heads& dk, const Heads& dv);

// cross_entropy.h
void SoftmaxStatistics(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                       int64_t first_row, const Tensor& row_max, const Tensor& row_sum,
                       const Tensor& target);
void CombineSoftmaxStatistics(Stream& stream, const Tensor& gathered, const Tensor& row_max,
                              const Tensor& row_sum, const Tensor& target);
void TokenLosses(Stream& stream, const Tensor& labels, const Tensor& row_max, const Tensor& row_sum,
                 const Tensor& target, const Tensor& losses);
void SoftmaxGradient(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                     int64_t first_row, const Tensor& row_max, const Tensor& row_sum, float scale,
                     const Tensor& dlogits);
void CrossEntropyInPlace(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                         float scale, const Tensor& losses);
double SumF64(Stream& stream, const Tensor& x);
void SumF64(Stream& stream, const Tensor& x, double* sum);

// matmul.h; shapes are checked already and positive.
void MatMul(Stream& stream, const Matrix& a, Transpose transpose_a, const Matrix& b,
            Transpose transpose_b, const Matrix& c, bool accumulate, const Tensor& bias);
void MatMulGelu(Stream& stream, const Matrix& a, const Matrix& b, Transpose transpose_b,
                const Tensor& bias, const Tensor& pre, const Tensor& y);
void MatMulGeluBackward(Stream& stream, const Matrix& dy, const Matrix& b, Transpose transpose_b,
                        const Tensor& pre, const Tensor& dpre);
// Whether cuBLASLt's GELU epilogues may be asked for a product of `input`s to `out`, with the
// values before the activation in `pre`. In f32 they are not: the library's tanh is of unknown
// accuracy.
inline bool FitsGeluEpilogue(DType input, const Tensor& pre, const Tensor& out) {
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.data()) % 16 == 0;
  };
  return input == DType::kBF16 && pre.dtype() == DType::kBF16 && out.dtype() == DType::kBF16 &&
         pre.dim(-1) % 8 == 0 && aligned(pre) && aligned(out);
}

}  // namespace trireme::cuda
