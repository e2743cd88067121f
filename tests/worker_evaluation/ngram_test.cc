// Unigram and bigram baselines against values computed by hand.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "worker/evaluation/perplexity.h"

namespace trireme {
namespace {

using Ids = std::vector<int32_t>;

TokenStream NgramStream(const Ids& ids) {
  return {static_cast<int64_t>(ids.size()), [ids](int64_t begin, std::span<int32_t> out) {
            std::copy_n(ids.begin() + begin, out.size(), out.begin());
          }};
}

// 0 1 0 1 ..., so many ids.
Ids Alternating(int count) {
  Ids ids(count);
  for (int i = 0; i < count; ++i) ids[i] = i % 2;
  return ids;
}

// The stream's perplexity when its predictions have the probabilities p, each so many times.
double PerplexityOf(const std::vector<std::pair<int, double>>& p) {
  double nll = 0;
  int count = 0;
  for (const auto& [times, probability] : p) {
    nll -= times * std::log(probability);
    count += times;
  }
  return std::exp(nll / count);
}

// All pairs of the last tenth are certain under the bigram, which would give it all the weight.
TEST(NgramTest, AnUnseenPairHasAProbabilityAfterTextThatOnlyRepeatsItself) {
  const Ids train = Alternating(40);  // the last tenth: 0 1 0 1, three pairs
  Ids validation = Alternating(18);
  validation.insert(validation.end(), {2, 2});
  const auto result = EvaluateNgrams(NgramStream(train), NgramStream(validation), 3);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->tokens, 19);
  EXPECT_EQ(result->bigram_weight, 0.75) << "3 / (3 + 1)";
  // Add-one over 40 tokens and a vocabulary of 3: p(0) = p(1) = 21/43, p(2) = 1/43. To predict:
  // 17 times 0 or 1, then 2 after 1 (never seen) and 2 after 2 (which nothing ever followed).
  EXPECT_NEAR(result->unigram_perplexity, PerplexityOf({{17, 21. / 43}, {2, 1. / 43}}), 1e-9);
  EXPECT_NEAR(result->bigram_perplexity,
              PerplexityOf({{17, 0.75 + 0.25 * 21 / 43}, {1, 0.25 * 1 / 43}, {1, 1. / 43}}), 1e-9);
}

// k pairs with bigram probability 1 and unigram probability b, m pairs that were never seen: the
// likelihood (w + (1 - w) b)^k (1 - w)^m is largest at w = (k (1 - b) - m b) / ((k + m) (1 - b)).
TEST(NgramTest, TheWeightMakesTheLastTenthLikeliest) {
  Ids train = Alternating(180);
  const Ids last = {0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0};
  train.insert(train.end(), last.begin(), last.end());  // k = 16, m = 3: the pairs 0 0
  const auto result = EvaluateNgrams(NgramStream(train), NgramStream(Alternating(20)), 4);
  ASSERT_TRUE(result.ok()) << result.status().message();
  const double b = 91. / 184;  // the first 180 alone: 90 of each, and 4 for add-one
  const double weight = (16 * (1 - b) - 3 * b) / (19 * (1 - b));
  EXPECT_NEAR(result->bigram_weight, weight, 1e-7);
  // Over all 200 tokens: 102 zeros, which 99 ones and 3 zeros follow; 98 ones before the end, all
  // followed by zeros. To predict: 10 ones and 9 zeros.
  const double p0 = 103. / 204, p1 = 99. / 204;
  EXPECT_NEAR(result->unigram_perplexity, PerplexityOf({{10, p1}, {9, p0}}), 1e-9);
  EXPECT_NEAR(
      result->bigram_perplexity,
      PerplexityOf({{10, weight * 98. / 101 + (1 - weight) * p1}, {9, weight + (1 - weight) * p0}}),
      1e-7);
}

TEST(NgramTest, StreamsThatCannotBeCountedAreRefused) {
  const auto error = [](const Ids& train, const Ids& validation) {
    const auto result = EvaluateNgrams(NgramStream(train), NgramStream(validation), 3);
    EXPECT_EQ(result.status().code(), StatusCode::kDataLoss);
    return result.status().message();
  };
  Ids wrong = Alternating(30);
  wrong[7] = 3;
  EXPECT_EQ(error(wrong, Alternating(30)),
            "the training stream: token 7 is 3, but the vocabulary has 3");
  EXPECT_EQ(error(Alternating(30), Alternating(19)),
            "the validation stream has 19 tokens: expected at least 20");
}

}  // namespace
}  // namespace trireme
