#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "tests/cuda_kernels/device_testing.h"
#include "tests/cuda_kernels/on_gpu.h"
#include "worker/kernels/cross_entropy.h"

namespace trireme {
namespace {

constexpr int64_t kLogitRows = 7;

Owned Labels(int64_t vocabulary) {
  Owned labels(DType::kI32, {kLogitRows});
  for (int64_t n = 0; n < kLogitRows; ++n)
    labels.Set(n, n % 5 == 2 ? kNoLabel : (n * 31) % vocabulary);
  return labels;
}

struct Results {
  Owned row_max, row_sum, target, losses, gradient, rounded;
};

// Every step of the classifier on `stream`; the f32 gradient in place or not.
Results RunAll(Stream& stream, const Owned& logits_in, const Owned& labels_in, int64_t first_row,
               bool in_place) {
  const Shape shape = logits_in.view().shape();
  const OnGpu logits(stream, logits_in), labels(stream, labels_in);
  const OnGpu row_max(stream, DType::kF32, {shape[0]}),
      row_sum = OnGpu(stream, row_max.Read()), target(stream, DType::kF32, {shape[0]}),
      losses(stream, DType::kF32, {shape[0]}), gradient(stream, DType::kF32, shape),
      rounded(stream, DType::kBF16, shape);
  SoftmaxStatistics(stream, logits, shape[1], labels, first_row, row_max, row_sum, target);
  TokenLosses(stream, labels, row_max, row_sum, target, losses);
  SoftmaxGradient(stream, logits, shape[1], labels, first_row, row_max, row_sum, 0.37f, rounded);
  const OnGpu& where = in_place ? logits : gradient;
  SoftmaxGradient(stream, logits, shape[1], labels, first_row, row_max, row_sum, 0.37f, where);
  return {row_max.Read(), row_sum.Read(), target.Read(),
          losses.Read(),  where.Read(),   rounded.Read()};
}

class CudaCrossEntropyTest : public testing::TestWithParam<int64_t> {};

TEST_P(CudaCrossEntropyTest, EqualsTheCpu) {
  const int64_t width = GetParam();
  const Owned logits = Owned::Random(DType::kF32, {kLogitRows, width}, 1, 8.0),
              labels = Labels(width);
  Stream cpu(1), gpu(Gpu{});
  // The second time as a part of a vocabulary: some labels are elsewhere.
  for (const int64_t first_row : {int64_t{0}, width / 3}) {
    const Results expected = RunAll(cpu, logits, labels, first_row, false);
    const Results actual = RunAll(gpu, logits, labels, first_row, false);
    EXPECT_TRUE(actual.row_max == expected.row_max);
    EXPECT_TRUE(actual.target == expected.target);
    ExpectNear(actual.row_sum, expected.row_sum.Doubles(), 0, 2e-6, "sum");
    ExpectNear(actual.losses, expected.losses.Doubles(), 2e-6, 2e-7, "losses");
    ExpectNear(actual.gradient, expected.gradient.Doubles(), 1e-7, 3e-6, "gradient");
    ExpectNear(actual.rounded, expected.gradient.Doubles(), 1e-7, Rounding(DType::kBF16), "bf16");
    const Results again = RunAll(gpu, logits, labels, first_row, true);
    EXPECT_TRUE(again.gradient == actual.gradient) << "in place";
    EXPECT_TRUE(again.row_sum == actual.row_sum) << "a second run";
  }
}

// Rows of `width` logits in the compute dtype, with room behind them that holds anything: kernels
// on them, in place, against the CPU's. More are further operands.
void ExpectGpuIsCpuOnPaddedRows(int64_t width,
                                const std::function<void(Stream&, const Tensors&)>& run,
                                const std::vector<Owned>& more) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int64_t padding : {0, 8, 61}) {
      const int64_t stride = (width + padding + 7) / 8 * 8;
      Owned logits = Owned::Random(dtype, {kLogitRows, stride}, 1, 8.0);
      for (int64_t n = 0; n < kLogitRows; ++n) {
        for (int64_t v = width; v < stride; ++v) logits.Set(n * stride + v, NAN);
      }
      std::vector<Owned> operands = {logits, Labels(width)};
      operands.insert(operands.end(), more.begin(), more.end());
      ExpectGpuIsCpu(run, operands, 3e-7, 3e-6);
    }
  }
}

TEST_P(CudaCrossEntropyTest, InPlaceEqualsTheCpu) {
  const int64_t width = GetParam();
  ExpectGpuIsCpuOnPaddedRows(
      width,
      [&](Stream& s, const Tensors& t) { CrossEntropyInPlace(s, t[0], width, t[1], 0.37f, t[2]); },
      {Owned(DType::kF32, {kLogitRows})});
}

// What ranks with a part of the vocabulary do.
TEST_P(CudaCrossEntropyTest, StepsOnPaddedRowsEqualTheCpu) {
  const int64_t width = GetParam();
  const Owned row(DType::kF32, {kLogitRows});
  ExpectGpuIsCpuOnPaddedRows(width,
                             [&](Stream& s, const Tensors& t) {
                               SoftmaxStatistics(s, t[0], width, t[1], width / 3, t[2], t[3], t[4]);
                               SoftmaxGradient(s, t[0], width, t[1], width / 3, t[2], t[3], 0.37f,
                                               t[0]);
                             },
                             {row, row, row});
}

INSTANTIATE_TEST_SUITE_P(All, CudaCrossEntropyTest,
                         testing::Values(1, 3, 7, 16, 300, 1031, 4104, 21001));

TEST(CudaCrossEntropyTest, ExtremeLogitsAreThoseOfTheCpu) {
  constexpr int64_t kWidth = 5000;
  Stream cpu(1), gpu(Gpu{});
  Owned logits = Owned::Random(DType::kF32, {kLogitRows, kWidth}, 1), labels = Labels(kWidth);
  for (int64_t v = 0; v < kWidth; ++v) logits.Set(v, v == 4321 ? 2.0 : -INFINITY);  // one is left
  logits.Set(kWidth + 77, 3e38);
  logits.Set(3 * kWidth + 4999, NAN);
  logits.Set(4 * kWidth, INFINITY);
  const Results expected = RunAll(cpu, logits, labels, 0, false);
  const Results actual = RunAll(gpu, logits, labels, 0, true);
  EXPECT_EQ(actual.row_sum.At(0), 1.0);
  EXPECT_EQ(actual.row_sum.At(1), expected.row_sum.At(1));
  for (const int64_t n : {3, 4}) {
    EXPECT_TRUE(std::isnan(expected.losses.At(n))) << n;
    EXPECT_TRUE(std::isnan(actual.losses.At(n))) << n;
  }
  for (int64_t i = 0; i < 2 * kWidth; ++i) {
    ASSERT_NEAR(actual.gradient.At(i), expected.gradient.At(i), 1e-6) << i;
  }
}

TEST(CudaCrossEntropyTest, StatisticsOfRanksCombineAsOnTheCpu) {
  constexpr int64_t kTokens = 300, kRanks = 3;
  const Owned gathered = Owned::Random(DType::kF32, {kRanks, 3, kTokens}, 1, 5.0);
  const auto run = [&](Stream& stream) {
    const OnGpu all(stream, gathered), row_max(stream, DType::kF32, {kTokens}),
        row_sum(stream, DType::kF32, {kTokens}), target(stream, DType::kF32, {kTokens});
    CombineSoftmaxStatistics(stream, all, row_max, row_sum, target);
    return Results{row_max.Read(), row_sum.Read(), target.Read(), {}, {}, {}};
  };
  Stream cpu(1), gpu(Gpu{});
  const Results expected = run(cpu), actual = run(gpu);
  EXPECT_TRUE(actual.row_max == expected.row_max);
  EXPECT_TRUE(actual.target == expected.target);
  ExpectNear(actual.row_sum, expected.row_sum.Doubles(), 1e-5, 1e-6, "sum");
}

TEST(CudaSumF64Test, AddsInDoubleInAnOrderThatAlignmentDoesNotChange) {
  Stream gpu(Gpu{});
  for (const int64_t n : {0, 1, 5, 4099, 40003}) {
    Owned x = Owned::Random(DType::kF32, {n}, 3);
    if (n > 0) x.Set(0, 1e8);
    double expected = 0;
    for (const double value : x.Doubles()) expected += value;
    const double sum = SumF64(gpu, OnGpu(gpu, x));
    EXPECT_NEAR(sum, expected, 1e-7) << n;
    for (int64_t offset = 1; offset < 4; ++offset) {
      EXPECT_EQ(SumF64(gpu, OnGpu(gpu, x, offset)), sum) << n << " at " << offset;
    }
  }
}

}  // namespace
}  // namespace trireme
