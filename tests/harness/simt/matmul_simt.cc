// The matrix products of the SIMT backend: the CPU's, on the fake device's memory, in the stream's
// order.
#include <cuda_runtime_api.h>

#include "worker/kernels/cuda_kernels.h"

namespace trireme::cuda {

void MatMul(Stream& stream, const Matrix& a, Transpose transpose_a, const Matrix& b,
            Transpose transpose_b, const Matrix& c, bool accumulate, const Tensor& bias) {
  simt::Enqueue(static_cast<cudaStream_t>(stream.native()), [=] {
    Stream cpu(1);
    trireme::MatMul(cpu, a, transpose_a, b, transpose_b, c, accumulate, bias);
  });
}

}  // namespace trireme::cuda
