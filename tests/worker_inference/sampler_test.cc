// The sampler: which tokens the filters keep, and how often each is drawn.
#include "worker/inference/sampler.h"

#include <gmock/gmock.h>

#include <cmath>
#include <set>

namespace trireme {
namespace {

using ::testing::ElementsAre;
using IdSet = std::set<int32_t>;

// Probabilities 0.15, 0.4, 0.05, 0.3, 0.1: by falling probability the ids are 1 3 0 4 2.
std::vector<float> FiveLogits() {
  std::vector<float> logits;
  for (const double p : {0.15, 0.4, 0.05, 0.3, 0.1}) {
    logits.push_back(static_cast<float>(std::log(p) + 2));
  }
  return logits;
}

// What 3000 draws bring: every token that is kept (none has less than 1% here), and no other.
IdSet Kept(const SamplingOptions& options, const std::vector<float>& logits = FiveLogits(),
           const std::vector<int32_t>& seen = {}) {
  Sampler sampler(options);
  IdSet kept;
  for (int64_t draw = 0; draw < 3000; ++draw) kept.insert(sampler.Pick(logits, seen, draw));
  return kept;
}

int32_t Greedy(const std::vector<float>& logits, double repetition_penalty = 1,
               const std::vector<int32_t>& seen = {}) {
  return Sampler({.temperature = 0, .repetition_penalty = repetition_penalty})
      .Pick(logits, seen, 0);
}

TEST(SamplerTest, WithoutFiltersEveryTokenCanCome) {
  EXPECT_THAT(Kept({}), ElementsAre(0, 1, 2, 3, 4));
}

TEST(SamplerTest, TopKKeepsTheKLargest) {
  EXPECT_THAT(Kept({.top_k = 1}), ElementsAre(1));
  EXPECT_THAT(Kept({.top_k = 3}), ElementsAre(0, 1, 3));
  EXPECT_THAT(Kept({.top_k = 5}), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(Kept({.top_k = 50}), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(Kept({.top_k = 2}, {1, 2, 1, 1}), ElementsAre(0, 1)) << "of equal ones the lowest id";
}

TEST(SamplerTest, TopPKeepsTheFewestThatReachP) {
  EXPECT_THAT(Kept({.top_p = 1e-9}), ElementsAre(1));
  EXPECT_THAT(Kept({.top_p = 0.39}), ElementsAre(1));
  EXPECT_THAT(Kept({.top_p = 0.41}), ElementsAre(1, 3));
  EXPECT_THAT(Kept({.top_p = 0.69}), ElementsAre(1, 3));
  EXPECT_THAT(Kept({.top_p = 0.71}), ElementsAre(0, 1, 3));
  EXPECT_THAT(Kept({.top_p = 0.94}), ElementsAre(0, 1, 3, 4));
  EXPECT_THAT(Kept({.top_p = 0.96}), ElementsAre(0, 1, 2, 3, 4));
}

TEST(SamplerTest, MinPIsAShareOfTheLargest) {
  EXPECT_THAT(Kept({.min_p = 1}), ElementsAre(1));
  EXPECT_THAT(Kept({.min_p = 0.76}), ElementsAre(1));
  EXPECT_THAT(Kept({.min_p = 0.74}), ElementsAre(1, 3));
  EXPECT_THAT(Kept({.min_p = 0.37}), ElementsAre(0, 1, 3));
  EXPECT_THAT(Kept({.min_p = 0.24}), ElementsAre(0, 1, 3, 4));
  EXPECT_THAT(Kept({.min_p = 0.12}), ElementsAre(0, 1, 2, 3, 4));
}

// At temperature 2 the probabilities are 0.30, 0.26, 0.18, 0.15, 0.11, in falling order.
TEST(SamplerTest, TheFiltersSeeProbabilitiesAtTheTemperature) {
  EXPECT_THAT(Kept({.temperature = 1, .top_p = 0.6}), ElementsAre(1, 3));
  EXPECT_THAT(Kept({.temperature = 2, .top_p = 0.6}), ElementsAre(0, 1, 3));
  EXPECT_THAT(Kept({.temperature = 1, .min_p = 0.55}), ElementsAre(1, 3));
  EXPECT_THAT(Kept({.temperature = 2, .min_p = 0.55}), ElementsAre(0, 1, 3));
}

TEST(SamplerTest, TheFiltersActOneAfterTheOther) {
  // Of the two largest the first has 0.4 / 0.7 = 0.57.
  EXPECT_THAT(Kept({.top_k = 2, .top_p = 0.56}), ElementsAre(1));
  EXPECT_THAT(Kept({.top_k = 2, .top_p = 0.58}), ElementsAre(1, 3));
  EXPECT_THAT(Kept({.top_p = 0.9, .min_p = 0.3}), ElementsAre(0, 1, 3));
  EXPECT_THAT(Kept({.top_p = 0.5, .min_p = 0.1}), ElementsAre(1, 3));
  EXPECT_THAT(Kept({.top_k = 4, .top_p = 0.99, .min_p = 0.7}), ElementsAre(1, 3));
}

TEST(SamplerTest, TemperatureZeroTakesTheLowestIdOfTheLargest) {
  EXPECT_EQ(Greedy({1, 3, 2}), 1);
  EXPECT_EQ(Greedy({1, 3, 3, 2, 3}), 1);
  EXPECT_EQ(Greedy({-2, -2, -2}), 0);
}

TEST(SamplerTest, TheRepetitionPenaltyMovesSeenTokensDownOnce) {
  EXPECT_EQ(Greedy({3, 1.9f}, 1.5, {0, 0, 0}), 0) << "3 / 1.5 = 2, once";
  EXPECT_EQ(Greedy({3, 2.1f}, 1.5, {0}), 1);
  EXPECT_EQ(Greedy({3, 2.1f}, 1.5, {1}), 0);
  EXPECT_EQ(Greedy({-1, -1.4f}, 1.5, {0}), 1) << "-1 x 1.5";
  EXPECT_EQ(Greedy({-1, -1.6f}, 1.5, {0}), 0);
  EXPECT_EQ(Greedy({2, 2.5f}, 0.5, {0}), 0) << "below 1 it is a reward";
  EXPECT_EQ(Greedy({3, 2.1f}, 1.5, {-1, 2}), 0) << "ids that are no tokens";
  EXPECT_THAT(Kept({.top_k = 2, .repetition_penalty = 2}, {3, 2, 2.5f}, {0}), ElementsAre(1, 2))
      << "before the other filters";
}

// The draws of a seed are always the same, so five standard deviations are no matter of luck.
TEST(SamplerTest, TokensComeAsOftenAsTheirProbabilitySays) {
  constexpr int kDraws = 20000;
  const std::vector<double> p = {0.15, 0.4, 0.05, 0.3, 0.1};
  for (const double temperature : {0.5, 1.0, 2.0}) {
    for (const int64_t top_k : {0, 3}) {
      std::vector<double> expected(5);
      double total = 0;
      for (int i = 0; i < 5; ++i) {
        if (top_k == 0 || p[i] > 0.1) expected[i] = std::pow(p[i], 1 / temperature);
        total += expected[i];
      }
      Sampler sampler({.temperature = temperature, .top_k = top_k, .seed = 7});
      std::vector<int> counts(5, 0);
      const std::vector<float> logits = FiveLogits();
      for (int64_t draw = 0; draw < kDraws; ++draw) ++counts[sampler.Pick(logits, {}, draw)];
      for (int i = 0; i < 5; ++i) {
        const double share = expected[i] / total;
        EXPECT_NEAR(counts[i], kDraws * share, 5 * std::sqrt(kDraws * share * (1 - share)))
            << "token " << i << ", temperature " << temperature << ", top-k " << top_k;
      }
    }
  }
}

TEST(SamplerTest, ADrawDependsOnTheSeedAndItsNumberAlone) {
  const std::vector<float> logits = FiveLogits();
  const auto draws = [&](uint64_t seed, bool backwards) {
    Sampler sampler({.seed = seed});
    std::vector<int32_t> ids(100);
    for (int i = 0; i < 100; ++i) {
      const int draw = backwards ? 99 - i : i;
      ids[draw] = sampler.Pick(logits, {}, draw);
    }
    return ids;
  };
  EXPECT_EQ(draws(3, false), draws(3, true));
  EXPECT_NE(draws(3, false), draws(4, false));
}

TEST(SamplerTest, OptionsThatMeanNothingAreRefused) {
  const auto error = [](const SamplingOptions& options) {
    const Status status = CheckSampling(options);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    return status.message();
  };
  EXPECT_TRUE(CheckSampling({}).ok());
  EXPECT_EQ(error({.temperature = -0.5}), "--temperature -0.5: expected 0 or more");
  EXPECT_EQ(error({.temperature = std::nan("")}), "--temperature nan: expected 0 or more");
  EXPECT_EQ(error({.top_k = -1}), "--top-k -1: expected 0 (all) or more");
  EXPECT_EQ(error({.top_p = 0}), "--top-p 0: expected above 0, at most 1");
  EXPECT_EQ(error({.min_p = 1.5}), "--min-p 1.5: expected 0 to 1");
  EXPECT_EQ(error({.repetition_penalty = 0}), "--repetition-penalty 0: expected above 0");
}

}  // namespace
}  // namespace trireme
