// The matrix products of the SIMT backend: the CPU's, on the fake device's memory, in the stream's
// order. Products with GELU round where cuBLASLt's epilogues do, which work on the f32 sums.
#include <cuda_runtime_api.h>

#include <vector>

#include "cluster/device/elementwise.h"
#include "worker/kernels/activation.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/gpu_libraries.h"

namespace trireme::cuda {
namespace {

// An f32 tensor of another one's shape and values, on the host.
class Sums {
 public:
  explicit Sums(const Tensor& like) : values_(like.elements()), shape_(like.shape()) {
    for (int64_t i = 0; i < like.elements(); ++i) values_[i] = ToFloat(like.as<BFloat16>()[i]);
  }
  Tensor view() { return Tensor(values_.data(), DType::kF32, shape_); }
  void RoundTo(Stream& stream, const Tensor& out) {
    trireme::CastToBFloat16(stream, out.as<BFloat16>(), values_.data(), out.elements());
  }

 private:
  std::vector<float> values_;
  Shape shape_;
};

}  // namespace

void MatMul(Stream& stream, const Matrix& a, Transpose transpose_a, const Matrix& b,
            Transpose transpose_b, const Matrix& c, bool accumulate, const Tensor& bias) {
  simt::Enqueue(static_cast<cudaStream_t>(stream.native()), [=] {
    Stream cpu(1);
    trireme::MatMul(cpu, a, transpose_a, b, transpose_b, c, accumulate, bias);
  });
}

void MatMulGelu(Stream& stream, const Matrix& a, const Matrix& b, Transpose transpose_b,
                const Tensor& bias, const Tensor& pre, const Tensor& y) {
  if (!FitsGeluEpilogue(a.dtype, pre, y)) {
    cuda::MatMul(stream, a, Transpose::kNo, b, transpose_b, Matrix::Of(pre), false, bias);
    return cuda::GeluForward(stream, pre, y);
  }
  simt::Enqueue(static_cast<cudaStream_t>(stream.native()), [=] {
    Stream cpu(1);
    Sums sums(pre);
    trireme::MatMul(cpu, a, Transpose::kNo, b, transpose_b, Matrix::Of(sums.view()), false, bias);
    sums.RoundTo(cpu, pre);
    trireme::GeluForward(cpu, sums.view(), sums.view());
    sums.RoundTo(cpu, y);
  });
}

void MatMulGeluBackward(Stream& stream, const Matrix& dy, const Matrix& b, Transpose transpose_b,
                        const Tensor& pre, const Tensor& dpre) {
  if (!FitsGeluEpilogue(dy.dtype, pre, dpre)) {
    cuda::MatMul(stream, dy, Transpose::kNo, b, transpose_b, Matrix::Of(dpre), false, Tensor());
    return cuda::GeluBackward(stream, dpre, pre, dpre);
  }
  simt::Enqueue(static_cast<cudaStream_t>(stream.native()), [=] {
    Stream cpu(1);
    Sums before(pre), sums(dpre);
    trireme::MatMul(cpu, dy, Transpose::kNo, b, transpose_b, Matrix::Of(sums.view()));
    trireme::GeluBackward(cpu, sums.view(), before.view(), sums.view());
    sums.RoundTo(cpu, dpre);
  });
}

}  // namespace trireme::cuda

namespace trireme {

Result<std::string> GpuProductLibrary() { return std::string("the CPU's products"); }

}  // namespace trireme
