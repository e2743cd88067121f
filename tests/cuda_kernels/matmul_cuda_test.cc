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

// [rows, hidden] by [hidden, columns]. Columns that are no multiple of 8, and f32, take the way
// without an epilogue. bf16: the CPU rounds before the activation too, so a few roundings apart.
class MatMulGeluCudaTest : public testing::TestWithParam<std::tuple<DType, int64_t, Transpose>> {
 protected:
  DType dtype = std::get<0>(GetParam());
  int64_t columns = std::get<1>(GetParam());
  Transpose turn = std::get<2>(GetParam());
  Owned weight =
      Owned::Random(dtype, turn == Transpose::kYes ? Shape{columns, 40} : Shape{40, columns}, 2);
  double relative = dtype == DType::kF32 ? 2e-6 : 1.0 / 64;
  double absolute = dtype == DType::kF32 ? 1e-5 : 1.0 / 64;
};
INSTANTIATE_TEST_SUITE_P(All, MatMulGeluCudaTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(64, 128, 37),
                                          testing::Values(Transpose::kNo, Transpose::kYes)));

TEST_P(MatMulGeluCudaTest, ForwardIsTheCpus) {
  for (const bool with_bias : {false, true}) {
    ExpectGpuIsCpu(
        [&](Stream& s, const Tensors& t) {
          MatMulGelu(s, Matrix::Of(t[0]), Matrix::Of(t[1]), turn, t[2], t[3], t[4]);
        },
        {Owned::Random(dtype, {48, 40}, 1), weight,
         with_bias ? Owned::Random(DType::kF32, {columns}, 3) : Owned(),
         Owned::Random(dtype, {48, columns}, 4), Owned::Random(dtype, {48, columns}, 5)},
        absolute, relative);
  }
}

TEST_P(MatMulGeluCudaTest, BackwardIsTheCpus) {
  ExpectGpuIsCpu(
      [&](Stream& s, const Tensors& t) {
        MatMulGeluBackward(s, Matrix::Of(t[0]), Matrix::Of(t[1]), turn, t[2], t[3]);
      },
      {Owned::Random(dtype, {48, 40}, 1), weight, Owned::Random(dtype, {48, columns}, 4),
       Owned::Random(dtype, {48, columns}, 5)},
      absolute, relative);
}

}  // namespace
}  // namespace trireme
