#include "worker/kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include "tests/worker_kernels/kernel_testing.h"

namespace trireme {
namespace {

constexpr int64_t kLogitRows = 23;

Owned Labels(int64_t vocabulary) {
  Owned labels(DType::kI32, {kLogitRows});
  for (int64_t n = 0; n < kLogitRows; ++n)
    labels.Set(n, n % 5 == 2 ? kNoLabel : (n * 31) % vocabulary);
  return labels;
}

struct Statistics {
  Owned row_max{DType::kF32, {kLogitRows}}, row_sum{DType::kF32, {kLogitRows}},
      target{DType::kF32, {kLogitRows}};
};

double Loss(const double* row, int64_t vocabulary, int64_t label) {
  double top = row[0], sum = 0;
  for (int64_t v = 0; v < vocabulary; ++v) top = std::max(top, row[v]);
  for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(row[v] - top);
  return std::log(sum) + top - row[label];
}

class CrossEntropyTest : public testing::TestWithParam<int64_t> {
 protected:
  int64_t vocabulary = GetParam();
  Owned logits = Owned::Random(DType::kF32, {kLogitRows, vocabulary}, 1, 8.0);
  Owned labels = Labels(vocabulary);
};

TEST_P(CrossEntropyTest, LossesAndGradientsEqualTheDoubleReference) {
  const float scale = 0.37f;
  const auto out = RunOnThreads([&](Stream& stream) {
    Statistics s;
    Owned losses(DType::kF32, {kLogitRows}), gradient = logits,
                                             rounded(DType::kBF16, {kLogitRows, vocabulary});
    SoftmaxStatistics(stream, logits, vocabulary, labels, 0, s.row_max, s.row_sum, s.target);
    TokenLosses(stream, labels, s.row_max, s.row_sum, s.target, losses);
    SoftmaxGradient(stream, logits, vocabulary, labels, 0, s.row_max, s.row_sum, scale, rounded);
    SoftmaxGradient(stream, gradient, vocabulary, labels, 0, s.row_max, s.row_sum, scale, gradient);
    return std::vector<Owned>{losses, gradient, rounded};
  });
  const std::vector<double> x = logits.Doubles();
  std::vector<double> losses(kLogitRows), gradient(kLogitRows * vocabulary);
  for (int64_t n = 0; n < kLogitRows; ++n) {
    const auto label = static_cast<int64_t>(labels.At(n));
    if (label == kNoLabel) continue;
    const std::vector<double> row(x.begin() + n * vocabulary, x.begin() + (n + 1) * vocabulary);
    losses[n] = Loss(row.data(), vocabulary, label);
    for (int64_t v = 0; v < vocabulary; ++v) {
      gradient[n * vocabulary + v] =
          scale * (std::exp(-Loss(row.data(), vocabulary, v)) - (v == label ? 1 : 0));
      if (v % 97 != 0) continue;
      const double slope = Difference(
          [&](const std::vector<double>& r) { return Loss(r.data(), vocabulary, label); }, row, v);
      EXPECT_NEAR(gradient[n * vocabulary + v], scale * slope, 1e-8);
    }
  }
  ExpectNear(out[0], losses, 2e-6, 2e-7, "losses");
  ExpectNear(out[1], gradient, 1e-7, 3e-6, "gradient");
  ExpectNear(out[2], gradient, 1e-7, Rounding(DType::kBF16), "bf16 gradient");
}

TEST_P(CrossEntropyTest, InPlaceItIsTheThreeStepsInOneAndClearsThePadding) {
  const int64_t stride = vocabulary + 5;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Owned rounded(dtype, {kLogitRows, vocabulary}), padded(dtype, {kLogitRows, stride});
    for (int64_t i = 0; i < logits.elements(); ++i) rounded.Set(i, logits.At(i));
    for (int64_t i = 0; i < padded.elements(); ++i) {
      const int64_t n = i / stride, v = i % stride;
      padded.Set(i, v < vocabulary ? rounded.At(n * vocabulary + v) : NAN);
    }
    Owned f32(DType::kF32, {kLogitRows, vocabulary});
    for (int64_t i = 0; i < f32.elements(); ++i) f32.Set(i, rounded.At(i));
    Stream stream(1);
    Statistics s;
    Owned expected_losses(DType::kF32, {kLogitRows}), gradient(dtype, {kLogitRows, vocabulary});
    SoftmaxStatistics(stream, f32, vocabulary, labels, 0, s.row_max, s.row_sum, s.target);
    TokenLosses(stream, labels, s.row_max, s.row_sum, s.target, expected_losses);
    SoftmaxGradient(stream, f32, vocabulary, labels, 0, s.row_max, s.row_sum, 0.37f, gradient);
    const auto out = RunOnThreads([&](Stream& threads) {
      Owned losses(DType::kF32, {kLogitRows}), made = padded, steps = padded;
      CrossEntropyInPlace(threads, made, vocabulary, labels, 0.37f, losses);
      // The steps that ranks with parts of the vocabulary take, on the same padded rows.
      Statistics own;
      SoftmaxStatistics(threads, steps, vocabulary, labels, 0, own.row_max, own.row_sum,
                        own.target);
      SoftmaxGradient(threads, steps, vocabulary, labels, 0, own.row_max, own.row_sum, 0.37f,
                      steps);
      return std::vector<Owned>{losses, made, steps, own.row_max, own.row_sum, own.target};
    });
    EXPECT_TRUE(out[0] == expected_losses);
    EXPECT_TRUE(out[3] == s.row_max && out[4] == s.row_sum && out[5] == s.target);
    for (int64_t i = 0; i < padded.elements(); ++i) {
      const int64_t n = i / stride, v = i % stride;
      const double expected = v < vocabulary ? gradient.At(n * vocabulary + v) : 0;
      ASSERT_EQ(out[1].At(i), expected) << n << " " << v;
      ASSERT_EQ(out[2].At(i), expected) << n << " " << v;
    }
  }
}

TEST_P(CrossEntropyTest, PartsOfTheVocabularyCombineToTheWhole) {
  if (vocabulary < 4) return;
  Stream stream(2);
  Statistics whole;
  SoftmaxStatistics(stream, logits, vocabulary, labels, 0, whole.row_max, whole.row_sum,
                    whole.target);
  const int64_t cuts[] = {0, vocabulary / 3, vocabulary};
  std::vector<double> top(kLogitRows, -INFINITY), sum(kLogitRows), target(kLogitRows);
  std::vector<Statistics> parts(2);
  for (int p = 0; p < 2; ++p) {
    Owned part(DType::kF32, {kLogitRows, cuts[p + 1] - cuts[p]});
    for (int64_t i = 0, n = 0; n < kLogitRows; ++n) {
      for (int64_t v = cuts[p]; v < cuts[p + 1]; ++v) part.Set(i++, logits.At(n * vocabulary + v));
    }
    Statistics& s = parts[p];
    SoftmaxStatistics(stream, part, cuts[p + 1] - cuts[p], labels, cuts[p], s.row_max, s.row_sum,
                      s.target);
    for (int64_t n = 0; n < kLogitRows; ++n) top[n] = std::max(top[n], s.row_max.At(n));
  }
  for (const Statistics& s : parts) {
    for (int64_t n = 0; n < kLogitRows; ++n) {
      sum[n] += s.row_sum.At(n) * std::exp(s.row_max.At(n) - top[n]);
      target[n] += s.target.At(n);
    }
  }
  ExpectNear(whole.row_max, top, 0, 1e-9, "max");
  ExpectNear(whole.row_sum, sum, 0, 1e-6, "sum");
  ExpectNear(whole.target, target, 1e-30, 0, "target");
}

INSTANTIATE_TEST_SUITE_P(All, CrossEntropyTest, testing::Values(1, 7, 16, 300, 1031));

TEST(CrossEntropyTest, NanLogitsGiveNanLosses) {
  Stream stream(1);
  for (const int64_t at : {0, 5, 19}) {
    Owned logits = Owned::Random(DType::kF32, {1, 20}, 1), labels(DType::kI32, {1});
    Owned a(DType::kF32, {1}), b(DType::kF32, {1}), c(DType::kF32, {1}), loss(DType::kF32, {1});
    logits.Set(at, NAN);
    SoftmaxStatistics(stream, logits, 20, labels, 0, a, b, c);
    TokenLosses(stream, labels, a, b, c, loss);
    EXPECT_TRUE(std::isnan(loss.At(0))) << at;
  }
}

TEST(SumF64Test, AddsInDouble) {
  Stream stream(1);
  Owned x(DType::kF32, {10001});
  for (int64_t i = 0; i < x.elements(); ++i) x.Set(i, i == 0 ? 1e8 : 0.25);
  EXPECT_EQ(SumF64(stream, x), 1e8 + 2500.0);
}

}  // namespace
}  // namespace trireme
