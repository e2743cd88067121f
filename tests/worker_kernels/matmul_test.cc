#include "worker/kernels/matmul.h"

#include <gtest/gtest.h>

#include <tuple>

#include "tests/worker_kernels/kernel_testing.h"
#include "worker/kernels/activation.h"

namespace trireme {
namespace {

struct MatMulCase {
  int64_t m, n, k;
};

std::vector<double> Reference(const Owned& a, bool ta, const Owned& b, bool tb, const Owned* c,
                              const Owned* bias, const MatMulCase& size) {
  std::vector<double> out(size.m * size.n);
  for (int64_t i = 0; i < size.m; ++i) {
    for (int64_t j = 0; j < size.n; ++j) {
      double sum = (c != nullptr ? c->At(i * size.n + j) : 0) + (bias != nullptr ? bias->At(j) : 0);
      for (int64_t l = 0; l < size.k; ++l) {
        sum +=
            a.At(ta ? l * size.m + i : i * size.k + l) * b.At(tb ? j * size.k + l : l * size.n + j);
      }
      out[i * size.n + j] = sum;
    }
  }
  return out;
}

using Parameters = std::tuple<DType, DType, bool, bool>;  // inputs, output, transposes
class MatMulTest : public testing::TestWithParam<Parameters> {};

TEST_P(MatMulTest, EqualsTheDoubleReferenceWithBitsFreeOfTheThreads) {
  const auto [input, output, ta, tb] = GetParam();
  for (const MatMulCase& size :
       {MatMulCase{1, 1, 1}, MatMulCase{1, 17, 33}, MatMulCase{3, 5, 7}, MatMulCase{16, 16, 16},
        MatMulCase{31, 100, 65}, MatMulCase{300, 70, 19}, MatMulCase{65, 530, 40},
        MatMulCase{2, 3, 700}, MatMulCase{129, 1030, 3}, MatMulCase{1030, 70, 21}}) {
    for (const bool accumulate : {false, true}) {
      if (accumulate && output == DType::kBF16) continue;
      for (const bool with_bias : {false, true}) {
        const Owned a = Owned::Random(input, ta ? Shape{size.k, size.m} : Shape{size.m, size.k}, 1);
        const Owned b = Owned::Random(input, tb ? Shape{size.n, size.k} : Shape{size.k, size.n}, 2);
        const Owned c0 = Owned::Random(output, {size.m, size.n}, 3);
        const Owned bias = Owned::Random(DType::kF32, {size.n}, 4);
        const auto out = RunOnThreads([&](Stream& stream) {
          Owned c = c0;
          MatMul(stream, Matrix::Of(a), Transpose{ta}, Matrix::Of(b), Transpose{tb}, Matrix::Of(c),
                 accumulate, with_bias ? bias.view() : Tensor());
          return std::vector<Owned>{c};
        });
        const double tolerance = 3e-7 * std::sqrt(size.k) + 1e-6;
        ExpectNear(
            out[0],
            Reference(a, ta, b, tb, accumulate ? &c0 : nullptr, with_bias ? &bias : nullptr, size),
            tolerance, output == DType::kBF16 ? Rounding(output) : 1e-6,
            testing::PrintToString(size.m) + " x " + testing::PrintToString(size.n));
      }
    }
  }
}

// Shapes of a training step: sums long enough that a split of K over threads would show, and
// operands that are copied to other layouts, in several goes.
TEST_P(MatMulTest, StepShapesHaveBitsFreeOfTheThreads) {
  const auto [input, output, ta, tb] = GetParam();
  for (const MatMulCase& size :
       {MatMulCase{512, 512, 1408}, MatMulCase{8, 512, 4096}, MatMulCase{1, 512, 512},
        MatMulCase{64, 64, 3000}, MatMulCase{704, 512, 300}, MatMulCase{1024, 128, 300},
        MatMulCase{1024, 1100, 2100}}) {
    const Owned a = Owned::Random(input, ta ? Shape{size.k, size.m} : Shape{size.m, size.k}, 1);
    const Owned b = Owned::Random(input, tb ? Shape{size.n, size.k} : Shape{size.k, size.n}, 2);
    const auto out = RunOnThreads([&](Stream& stream) {
      Owned c(output, {size.m, size.n});
      MatMul(stream, Matrix::Of(a), Transpose{ta}, Matrix::Of(b), Transpose{tb}, Matrix::Of(c));
      return std::vector<Owned>{c};
    });
    // Elements all over the result.
    for (int64_t at = 0; at < size.m * size.n; at += 1 + size.m * size.n / 97) {
      const int64_t i = at / size.n, j = at % size.n;
      double expected = 0;
      for (int64_t l = 0; l < size.k; ++l) {
        expected +=
            a.At(ta ? l * size.m + i : i * size.k + l) * b.At(tb ? j * size.k + l : l * size.n + j);
      }
      ASSERT_NEAR(out[0].At(at), expected, 1e-4 + Rounding(output) * std::abs(expected))
          << size.m << " x " << size.n << " x " << size.k << " at " << i << ", " << j;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, MatMulTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(DType::kF32, DType::kBF16),
                                          testing::Bool(), testing::Bool()));

TEST(MatMulPackTest, SumsInSeveralGoesKeepWhatWasThereAndAddTheBiasOnce) {
  const MatMulCase size = {256, 1100, 2100};
  const Owned b = Owned::Random(DType::kF32, {size.k, size.n}, 2);
  const Owned c0 = Owned::Random(DType::kF32, {size.m, size.n}, 3);
  const Owned bias = Owned::Random(DType::kF32, {size.n}, 4);
  for (const bool ta : {false, true}) {
    const Owned a = Owned::Random(DType::kF32, {ta ? size.k : size.m, ta ? size.m : size.k}, 1);
    Owned c = c0;
    Stream stream(2);
    MatMul(stream, Matrix::Of(a), Transpose{ta}, Matrix::Of(b), Transpose::kNo, Matrix::Of(c),
           /*accumulate=*/true, bias.view());
    for (int64_t at = 0; at < size.m * size.n; at += 2903) {
      const int64_t i = at / size.n, j = at % size.n;
      double expected = c0.At(at) + bias.At(j);
      for (int64_t l = 0; l < size.k; ++l) {
        expected += a.At(ta ? l * size.m + i : i * size.k + l) * b.At(l * size.n + j);
      }
      ASSERT_NEAR(c.At(at), expected, 1e-4) << i << ", " << j;
    }
  }
}

TEST(MatMulViewTest, PartsOfLargerMatricesAreReadAndWrittenInPlace) {
  const Owned a = Owned::Random(DType::kF32, {10, 40}, 1);
  const Owned b = Owned::Random(DType::kF32, {30, 40}, 2);
  Owned c = Owned::Random(DType::kF32, {10, 50}, 3);
  const Owned before = c;
  Stream stream(2);
  MatMul(stream, Matrix::Of(a).Columns(5, 25).Rows(2, 9), Transpose::kNo,
         Matrix::Of(b).Columns(20, 40), Transpose::kYes, Matrix::Of(c).Columns(10, 40).Rows(1, 8));
  for (int64_t i = 0; i < 10; ++i) {
    for (int64_t j = 0; j < 50; ++j) {
      double expected = before.At(i * 50 + j);
      if (i >= 1 && i < 8 && j >= 10 && j < 40) {
        expected = 0;
        for (int64_t l = 0; l < 20; ++l) {
          expected += a.At((i + 1) * 40 + 5 + l) * b.At((j - 10) * 40 + 20 + l);
        }
      }
      EXPECT_NEAR(c.At(i * 50 + j), expected, 1e-5) << i << ", " << j;
    }
  }
}

TEST(MatMulViewTest, TensorsBecomeMatrices) {
  const Owned x(DType::kBF16, {2, 3, 4});
  EXPECT_EQ(Matrix::Of(x).rows, 6);
  EXPECT_EQ(Matrix::Of(x).columns, 4);
  EXPECT_EQ(Matrix::OfRows(x).rows, 2);
  EXPECT_EQ(Matrix::OfRows(x).columns, 12);
}

TEST(MatMulViewTest, EmptyResultsAreLeftAlone) {
  Stream stream(1);
  const Owned a(DType::kF32, {0, 4}), b(DType::kF32, {5, 4}), c(DType::kF32, {0, 5});
  MatMul(stream, Matrix::Of(a), Transpose::kNo, Matrix::Of(b), Transpose::kYes, Matrix::Of(c));
}

TEST(MatMulDeathTest, ShapesThatDoNotFitEndTheProcess) {
  Stream stream(1);
  const Owned a(DType::kF32, {3, 4}), b(DType::kF32, {5, 6}), c(DType::kF32, {3, 5});
  EXPECT_DEATH(
      MatMul(stream, Matrix::Of(a), Transpose::kNo, Matrix::Of(b), Transpose::kYes, Matrix::Of(c)),
      "Check failed: k == ");
}

TEST(MatMulLibraryTest, NamesTheLibraryAndItsVersion) {
  EXPECT_EQ(std::string(MatMulLibrary()).rfind("oneDNN ", 0), 0u);
}

TEST(MatMulGeluTest, HasTheBitsOfTheTwoOperations) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Owned x = Owned::Random(dtype, {37, 40}, 1), w = Owned::Random(dtype, {40, 53}, 2);
    const Owned bias = Owned::Random(DType::kF32, {53}, 3), dy = Owned::Random(dtype, {37, 40}, 4);
    Stream stream(1);
    Owned pre(dtype, {37, 53}), y(dtype, {37, 53}), dpre(dtype, {37, 53});
    Owned pre_0(dtype, {37, 53}), y_0(dtype, {37, 53}), dpre_0(dtype, {37, 53});
    MatMulGelu(stream, Matrix::Of(x), Matrix::Of(w), Transpose::kNo, bias, pre, y);
    MatMulGeluBackward(stream, Matrix::Of(dy), Matrix::Of(w), Transpose::kNo, pre, dpre);
    MatMul(stream, Matrix::Of(x), Transpose::kNo, Matrix::Of(w), Transpose::kNo, Matrix::Of(pre_0),
           false, bias);
    GeluForward(stream, pre_0, y_0);
    MatMul(stream, Matrix::Of(dy), Transpose::kNo, Matrix::Of(w), Transpose::kNo,
           Matrix::Of(dpre_0));
    GeluBackward(stream, dpre_0, pre_0, dpre_0);
    EXPECT_TRUE(pre == pre_0 && y == y_0 && dpre == dpre_0) << DTypeName(dtype);
  }
}

}  // namespace
}  // namespace trireme
