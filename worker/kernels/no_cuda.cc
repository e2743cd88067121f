#include "cluster/device/no_cuda.h"

#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/gpu_libraries.h"

namespace trireme::cuda {

void RmsNormForward(Stream&, const Tensor&, const Tensor&, const Tensor&, float, const Tensor&,
                    const Tensor&, const Tensor&) {
  NoCuda("RmsNormForward");
}
void RmsNormBackward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                     const Tensor&, const Tensor&, const Tensor&, bool) {
  NoCuda("RmsNormBackward");
}
void LayerNormForward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, float,
                      const Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  NoCuda("LayerNormForward");
}
void LayerNormBackward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                       bool) {
  NoCuda("LayerNormBackward");
}
void SwiGluForward(Stream&, const Tensor&, const Tensor&, const Tensor&) {
  NoCuda("SwiGluForward");
}
void SwiGluBackward(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                    const Tensor&) {
  NoCuda("SwiGluBackward");
}
void GeluForward(Stream&, const Tensor&, const Tensor&) { NoCuda("GeluForward"); }
void GeluBackward(Stream&, const Tensor&, const Tensor&, const Tensor&) { NoCuda("GeluBackward"); }
void Add(Stream&, const Tensor&, const Tensor&, const Tensor&) { NoCuda("Add"); }
void BiasBackward(Stream&, const Tensor&, const Tensor&, bool) { NoCuda("BiasBackward"); }
void EmbeddingForward(Stream&, const Tensor&, const Tensor&, int64_t, const Tensor&) {
  NoCuda("EmbeddingForward");
}
void EmbeddingBackward(Stream&, const Tensor&, const Tensor&, int64_t, const Tensor&, bool) {
  NoCuda("EmbeddingBackward");
}
void PositionEmbeddingForward(Stream&, const Tensor&, const Tensor&, const Tensor&) {
  NoCuda("PositionEmbeddingForward");
}
void RotaryInPlace(Stream&, const Heads&, const Tensor&, const Tensor&, const Tensor&, bool) {
  NoCuda("RotaryInPlace");
}
void AttentionForward(Stream&, const Heads&, const Heads&, const Heads&, float, const Tensor&,
                      const Heads&, const Tensor&) {
  NoCuda("AttentionForward");
}
void AttentionBackward(Stream&, const Heads&, const Heads&, const Heads&, const Heads&,
                       const Heads&, const Tensor&, float, const Tensor&, const Heads&,
                       const Heads&, const Heads&) {
  NoCuda("AttentionBackward");
}
void AppendToCache(Stream&, const Heads&, const Tensor&, const Heads&) { NoCuda("AppendToCache"); }
void AttentionDecode(Stream&, const Heads&, const Heads&, const Heads&, const Tensor&, float,
                     const Heads&) {
  NoCuda("AttentionDecode");
}
void SoftmaxStatistics(Stream&, const Tensor&, int64_t, const Tensor&, int64_t, const Tensor&,
                       const Tensor&, const Tensor&) {
  NoCuda("SoftmaxStatistics");
}
void CombineSoftmaxStatistics(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  NoCuda("CombineSoftmaxStatistics");
}
void TokenLosses(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                 const Tensor&) {
  NoCuda("TokenLosses");
}
void SoftmaxGradient(Stream&, const Tensor&, int64_t, const Tensor&, int64_t, const Tensor&,
                     const Tensor&, float, const Tensor&) {
  NoCuda("SoftmaxGradient");
}
void CrossEntropyInPlace(Stream&, const Tensor&, int64_t, const Tensor&, float, const Tensor&) {
  NoCuda("CrossEntropyInPlace");
}
double SumF64(Stream&, const Tensor&) { NoCuda("SumF64"); }
void SumF64(Stream&, const Tensor&, double*) { NoCuda("SumF64"); }
void MatMul(Stream&, const Matrix&, Transpose, const Matrix&, Transpose, const Matrix&, bool,
            const Tensor&) {
  NoCuda("MatMul");
}
void MatMulGelu(Stream&, const Matrix&, const Matrix&, Transpose, const Tensor&, const Tensor&,
                const Tensor&) {
  NoCuda("MatMulGelu");
}
void MatMulGeluBackward(Stream&, const Matrix&, const Matrix&, Transpose, const Tensor&,
                        const Tensor&) {
  NoCuda("MatMulGeluBackward");
}

}  // namespace trireme::cuda

namespace trireme {

Result<std::string> GpuProductLibrary() { return NotBuiltError("this build has no CUDA"); }

}  // namespace trireme
