#include "worker/kernels/embedding.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/worker_kernels/kernel_testing.h"

namespace trireme {
namespace {

constexpr int64_t kTokens = 300, kTableRows = 11, kFirst = 5;

// Every id below `limit`, many times and in no order.
Owned Ids(int64_t limit, int64_t tokens = kTokens) {
  Owned ids(DType::kI32, {tokens});
  for (int64_t n = 0; n < tokens; ++n) ids.Set(n, (n * 7 + n / 8 * 3) % limit);
  return ids;
}

class EmbeddingTest : public testing::TestWithParam<std::tuple<DType, DType, int64_t>> {};

TEST_P(EmbeddingTest, RowsOfThisPartAreReadAndOthersAreZero) {
  const auto [table_type, y_type, hidden] = GetParam();
  const Owned ids = Ids(24), table = Owned::Random(table_type, {kTableRows, hidden}, 1);
  const auto out = RunOnThreads([&](Stream& stream) {
    Owned y = Owned::Random(y_type, {kTokens, hidden}, 2);
    EmbeddingForward(stream, ids, table, kFirst, y);
    return std::vector<Owned>{y};
  });
  std::vector<double> expected(kTokens * hidden, 0.0);
  for (int64_t n = 0; n < kTokens; ++n) {
    const int64_t r = static_cast<int64_t>(ids.At(n)) - kFirst;
    for (int64_t i = 0; i < hidden && r >= 0 && r < kTableRows; ++i) {
      expected[n * hidden + i] = table.At(r * hidden + i);
    }
  }
  ExpectNear(out[0], expected, 1e-30, table_type == y_type ? 0 : Rounding(y_type), "y");
}

TEST_P(EmbeddingTest, BackwardAddsInTokenOrder) {
  const auto [unused, dy_type, hidden] = GetParam();
  const Owned ids = Ids(24), dy = Owned::Random(dy_type, {kTokens, hidden}, 1);
  const Owned before = Owned::Random(DType::kF32, {kTableRows, hidden}, 2);
  for (const bool accumulate : {false, true}) {
    const auto out = RunOnThreads([&](Stream& stream) {
      Owned dtable = before;
      EmbeddingBackward(stream, ids, dy, kFirst, dtable, accumulate);
      return std::vector<Owned>{dtable};
    });
    Owned expected = before;
    float* sums = expected.as<float>();
    if (!accumulate) std::fill(sums, sums + kTableRows * hidden, 0.0f);
    for (int64_t n = 0; n < kTokens; ++n) {
      const int64_t r = static_cast<int64_t>(ids.At(n)) - kFirst;
      if (r < 0 || r >= kTableRows) continue;
      for (int64_t i = 0; i < hidden; ++i) {
        sums[r * hidden + i] += static_cast<float>(dy.At(n * hidden + i));
      }
    }
    EXPECT_TRUE(out[0] == expected);
  }
}

// The gradient of <dy, y> in the table, by central differences of a reference in double.
TEST_P(EmbeddingTest, BackwardIsTheSlopeOfTheReference) {
  const auto [table_type, dy_type, hidden] = GetParam();
  const Owned ids = Ids(24), table = Owned::Random(table_type, {kTableRows, hidden}, 1);
  const Owned dy = Owned::Random(dy_type, {kTokens, hidden}, 2);
  const Owned before = Owned::Random(DType::kF32, {kTableRows, hidden}, 3);
  const auto out = RunOnThreads([&](Stream& stream) {
    Owned dtable = before, sum = before;
    EmbeddingBackward(stream, ids, dy, kFirst, dtable, false);
    EmbeddingBackward(stream, ids, dy, kFirst, sum, true);
    return std::vector<Owned>{dtable, sum};
  });
  const std::vector<double> gradient = dy.Doubles();
  const auto loss = [&, hidden = hidden](const std::vector<double>& x) {
    double sum = 0;
    for (int64_t n = 0; n < kTokens; ++n) {
      const int64_t r = static_cast<int64_t>(ids.At(n)) - kFirst;
      for (int64_t i = 0; i < hidden && r >= 0 && r < kTableRows; ++i) {
        sum += gradient[n * hidden + i] * x[r * hidden + i];
      }
    }
    return sum;
  };
  // Differences of a linear function need no small step.
  const std::vector<double> x = table.Doubles(), all = ids.Doubles();
  EXPECT_EQ(std::set<double>(all.begin(), all.end()).size(), 24u);
  std::vector<double> slope(x.size()), added = before.Doubles();
  for (size_t i = 0; i < x.size(); ++i) {
    slope[i] = Difference(loss, x, static_cast<int64_t>(i), 0.5);
    added[i] += slope[i];
  }
  ExpectNear(out[0], slope, 1e-5, 1e-6, "dtable");
  ExpectNear(out[1], added, 1e-5, 1e-6, "dtable, added");
}

TEST_P(EmbeddingTest, PositionsAreAddedToWhatIsThere) {
  const auto [table_type, y_type, hidden] = GetParam();
  const Owned positions = Ids(kTableRows),
              table = Owned::Random(table_type, {kTableRows, hidden}, 1);
  const Owned before = Owned::Random(y_type, {kTokens, hidden}, 2);
  const auto out = RunOnThreads([&](Stream& stream) {
    Owned y = before;
    PositionEmbeddingForward(stream, positions, table, y);
    return std::vector<Owned>{y};
  });
  std::vector<double> expected = before.Doubles();
  for (int64_t i = 0; i < kTokens * hidden; ++i) {
    expected[i] += table.At(static_cast<int64_t>(positions.At(i / hidden)) * hidden + i % hidden);
  }
  ExpectNear(out[0], expected, 1e-7, Rounding(y_type), "y");
}

INSTANTIATE_TEST_SUITE_P(All, EmbeddingTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(1, 40, 133)));

}  // namespace
}  // namespace trireme
