// Perplexity over windows against sums of log softmax in double, token by token.
#include "worker/evaluation/perplexity.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "tests/worker_inference/loaded_model.h"

namespace trireme {
namespace {

using Ids = std::vector<int32_t>;

Ids SomeIds(int64_t count, int64_t vocab) {
  Ids ids(count);
  for (int64_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>((i * 7 + i * i) % vocab);
  return ids;
}

TokenStream StreamOf(const Ids& ids) {
  return {static_cast<int64_t>(ids.size()), [ids](int64_t begin, std::span<int32_t> out) {
            ASSERT_GE(begin, 0);
            ASSERT_LE(begin + out.size(), ids.size()) << "a read past the stream's end";
            std::copy_n(ids.begin() + begin, out.size(), out.begin());
          }};
}

// What predicting the stream costs in windows of L. Each window is fed by itself.
double ReferenceNll(LanguageModel* model, const Ids& ids, int64_t length,
                    std::optional<int32_t> bos) {
  const auto count = static_cast<int64_t>(ids.size());
  double nll = 0;
  for (int64_t begin = 0; begin < (bos ? count : count - 1); begin += length) {
    // Fed and predicted ids of the window, one behind the other.
    const int64_t end = std::min(count, begin + length + (bos ? 0 : 1));
    Ids window(ids.begin() + begin, ids.begin() + end);
    if (bos) window.insert(window.begin(), *bos);
    for (const double logprob : ReferenceLogProbabilities(model, window)) nll -= logprob;
  }
  return nll;
}

// Streams that end with a whole window, one token before, one after, and one of many batches.
TEST(PerplexityTest, EveryTokenIsPredictedOnceInWindowsOfL) {
  LoadedModel llama(SmallLlama()), gpt2(SmallGpt2());
  for (LanguageModel* model : {llama.get(), gpt2.get()}) {
    for (const auto& [tokens, length] :
         std::vector<std::pair<int, int>>{{2, 5}, {5, 5}, {6, 5}, {23, 5}, {2100, 8}}) {
      for (const std::optional<int32_t> bos : {std::optional<int32_t>(), std::optional(28)}) {
        const Ids ids = SomeIds(tokens, 29);
        const auto result =
            EvaluatePerplexity(model, StreamOf(ids), nullptr, {.length = length, .bos = bos});
        ASSERT_TRUE(result.ok()) << result.status().message();
        const int64_t predicted = bos ? tokens : tokens - 1;
        EXPECT_EQ(result->tokens, predicted);
        const double nll = ReferenceNll(model, ids, length, bos);
        EXPECT_NEAR(result->nll_sum, nll, 1e-5 * predicted)
            << tokens << " in windows of " << length;
        EXPECT_NEAR(result->Perplexity(), std::exp(nll / predicted), 1e-3);
        EXPECT_FALSE(result->bytes.has_value());
        EXPECT_FALSE(result->BitsPerByte().has_value());
      }
    }
  }
}

TEST(PerplexityTest, ALimitOfWindowsTakesTheFirst) {
  LoadedModel model(SmallLlama());
  const Ids ids = SomeIds(23, 29);
  const auto result =
      EvaluatePerplexity(model.get(), StreamOf(ids), nullptr, {.length = 5, .windows_max = 2});
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->tokens, 10);
  const Ids first(ids.begin(), ids.begin() + 11);
  EXPECT_NEAR(result->nll_sum, ReferenceNll(model.get(), first, 5, {}), 1e-4);
}

// "Hé" end "ab": the bytes of what is predicted, without the separator.
TEST(PerplexityTest, BitsPerByteCountTheBytesOfThePredictedText) {
  proto::ModelConfig config = SmallLlama();
  config.set_vocab_size(257);
  LoadedModel model(config);
  const auto tokenizer = ByteTokenizer();
  const Ids ids = {'H', 0xC3, 0xA9, 256, 'a', 'b'};
  const auto evaluate = [&](std::optional<int32_t> bos) {
    return EvaluatePerplexity(model.get(), StreamOf(ids), tokenizer.get(),
                              {.length = 4, .bos = bos})
        .value();
  };
  const PerplexityResult plain = evaluate({});
  EXPECT_EQ(plain.tokens, 5);
  EXPECT_EQ(plain.bytes, 4) << "H is fed alone";
  EXPECT_NEAR(*plain.BitsPerByte(), plain.nll_sum / std::log(2.0) / 4, 1e-12);
  const PerplexityResult with_bos = evaluate(256);
  EXPECT_EQ(with_bos.tokens, 6);
  EXPECT_EQ(with_bos.bytes, 5);
}

TEST(PerplexityTest, WhatCannotBePredictedIsRefused) {
  LoadedModel model(SmallLlama());
  const auto error = [&](const Ids& ids, StatusCode code) {
    const auto result = EvaluatePerplexity(model.get(), StreamOf(ids), nullptr, {.length = 5});
    EXPECT_EQ(result.status().code(), code);
    return result.status().message();
  };
  EXPECT_EQ(error({3}, StatusCode::kDataLoss), "1 tokens: nothing to predict");
  Ids ids = SomeIds(12, 29);
  ids[8] = 29;
  EXPECT_EQ(error(ids, StatusCode::kInvalidArgument),
            "token 8 is 29, but the model's vocabulary has 29");
}

}  // namespace
}  // namespace trireme
