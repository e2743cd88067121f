#include "tests/cuda_kernels/device_testing.h"
#include "worker/kernels/matmul.h"

namespace trireme {
namespace {

TEST(MatMulCudaTest, IsTheCpus) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const bool accumulate : {false, true}) {
      const Kernel kernel = [&](Stream& s, const Tensors& t) {
        MatMul(s, Matrix::Of(t[0]), Transpose::kNo, Matrix::Of(t[1]), Transpose::kYes,
               Matrix::Of(t[2]), accumulate, t[3]);
      };
      ExpectGpuIsCpu(kernel,
                     {Owned::Random(dtype, {19, 40}, 1), Owned::Random(dtype, {24, 40}, 2),
                      Owned::Random(DType::kF32, {19, 24}, 3), Owned::Random(DType::kF32, {24}, 4)},
                     1e-5, 1e-6);
    }
  }
}

}  // namespace
}  // namespace trireme
