// Log-likelihoods of continuations against sums of log softmax in double.
#include "worker/evaluation/scoring.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "tests/worker_inference/loaded_model.h"

namespace trireme {
namespace {

using Ids = std::vector<int32_t>;
using ::testing::ElementsAre;

ContinuationScore Score(LanguageModel* model, const Ids& context, const Ids& continuation) {
  auto score = ScoreContinuation(model, context, continuation);
  EXPECT_TRUE(score.ok()) << score.status().message();
  return std::move(score).value();
}

// The last log probabilities of `context` + `continuation`, as many as the continuation has.
std::vector<double> Reference(LanguageModel* model, Ids context, const Ids& continuation) {
  context.insert(context.end(), continuation.begin(), continuation.end());
  const std::vector<double> all = ReferenceLogProbabilities(model, context);
  return {all.end() - std::ssize(continuation), all.end()};
}

void ExpectScore(const ContinuationScore& score, const std::vector<double>& reference) {
  ASSERT_EQ(score.token_logprobs.size(), reference.size());
  double sum = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    EXPECT_NEAR(score.token_logprobs[i], reference[i], 1e-5) << i;
    sum += reference[i];
  }
  EXPECT_NEAR(score.logprob, sum, 1e-5 * static_cast<double>(reference.size()));
}

TEST(ScoringTest, AContinuationHasTheSumOfItsTokensLogProbabilities) {
  LoadedModel llama(SmallLlama()), gpt2(SmallGpt2());
  for (LanguageModel* model : {llama.get(), gpt2.get()}) {
    for (const auto& [context, continuation] :
         std::vector<std::pair<Ids, Ids>>{{{3}, {5}},
                                          {{3}, {5, 1, 28, 0}},
                                          {{3, 9, 2, 2, 7}, {11}},
                                          {{4, 4, 0}, {8, 6, 7, 5}}}) {
      ExpectScore(Score(model, context, continuation), Reference(model, context, continuation));
    }
  }
}

TEST(ScoringTest, GreedyMeansThatEveryTokenIsTheLikeliest) {
  LoadedModel model(SmallLlama());
  const Ids context = {3, 9, 2};
  Ids ids = context, likeliest;
  for (int i = 0; i < 4; ++i) {
    LanguageModel::Session session(model.get(), 1, 8);
    const Tensor logits = session.Append(ids);
    const float* begin = logits.as<float>();
    likeliest.push_back(static_cast<int32_t>(std::max_element(begin, begin + 29) - begin));
    ids.push_back(likeliest.back());
  }
  EXPECT_TRUE(Score(model.get(), context, likeliest).greedy);
  for (size_t i = 0; i < likeliest.size(); ++i) {
    Ids other = likeliest;
    other[i] = (other[i] + 1) % 29;
    EXPECT_FALSE(Score(model.get(), context, other).greedy) << i;
  }
}

// 32 positions: of 40 tokens that are fed, the last 32 count.
TEST(ScoringTest, OfAContextThatIsTooLongTheLastPartCounts) {
  LoadedModel model(SmallLlama());
  Ids context(38);
  for (int i = 0; i < 38; ++i) context[i] = (i * 5 + 1) % 29;
  const Ids continuation = {7, 8, 9};
  const Ids last(context.begin() + 8, context.end());
  ExpectScore(Score(model.get(), context, continuation),
              Reference(model.get(), last, continuation));
}

TEST(ScoringTest, WhatCannotBeScoredIsRefused) {
  LoadedModel model(SmallLlama());
  const auto error = [&](const Ids& context, const Ids& continuation) {
    const auto score = ScoreContinuation(model.get(), context, continuation);
    EXPECT_EQ(score.status().code(), StatusCode::kInvalidArgument);
    return score.status().message();
  };
  EXPECT_EQ(error({}, {1}), "context: expected at least one token");
  EXPECT_EQ(error({1}, {}), "continuation: expected at least one token");
  EXPECT_EQ(error({1}, {29}), "id 29: expected 0 to 28, the model's vocabulary");
  EXPECT_EQ(error({1}, Ids(33, 2)), "a continuation of 33 tokens: the model has 32 positions");
}

TEST(ScoringTest, TrailingSpacesOfTheContextGoToTheContinuation) {
  const auto tokenizer = ByteTokenizer();
  const auto pair = EncodePair(*tokenizer, "ab \n", "c").value();
  EXPECT_THAT(pair.first, ElementsAre('a', 'b'));
  EXPECT_THAT(pair.second, ElementsAre(' ', '\n', 'c'));
  // Nothing is left of a context of spaces: the end-of-text token stands for it.
  const auto empty = EncodePair(*tokenizer, " ", "c").value();
  EXPECT_THAT(empty.first, ElementsAre(256));
  EXPECT_THAT(empty.second, ElementsAre(' ', 'c'));
}

}  // namespace
}  // namespace trireme
