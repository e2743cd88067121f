// Generation token by token: text as it comes, stop strings, end tokens, log probabilities.
#include "worker/inference/generator.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <tuple>

#include "cluster/base/rng.h"
#include "tests/worker_inference/loaded_model.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using Ids = std::vector<int32_t>;

constexpr int32_t kEndOfText = 256, kWord = 257;

// A llama of so many tokens in which after ids[i] the token ids[i + 1] is by far the likeliest: its
// layers add nothing to the embeddings (random signs), and the head knows its predecessor's.
NamedTensors WeightsThatSpell(const proto::ModelConfig& config, const Ids& ids) {
  NamedTensors weights = RandomWeights(config);
  for (auto& [name, tensor] : weights) {
    const bool adds = name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight");
    if (adds) std::fill(tensor.values.begin(), tensor.values.end(), 0.0f);
    if (tensor.shape.size() == 1) std::fill(tensor.values.begin(), tensor.values.end(), 1.0f);
  }
  const CounterRng rng(5, RngUse::kTest, 0);
  std::vector<float>& table = weights.at("model.embed_tokens.weight").values;
  for (size_t i = 0; i < table.size(); ++i) table[i] = rng.Below(2, i) ? 1.0f : -1.0f;
  std::vector<float>& head = weights.at("lm_head.weight").values;
  std::fill(head.begin(), head.end(), 0.0f);
  const int64_t hidden = config.hidden_size();
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    for (int64_t h = 0; h < hidden; ++h) {
      head[ids[i + 1] * hidden + h] = 0.5f * table[ids[i] * hidden + h];
    }
  }
  return weights;
}

// A model that writes "bcde fgéh" after "a", its tokens being a b c "de f" g, the two bytes of é, h
// and the end of text.
class SpellingTest : public testing::Test {
 protected:
  static proto::ModelConfig Config() {
    proto::ModelConfig config = SmallLlama();
    config.set_vocab_size(258);
    config.set_hidden_size(64);
    config.set_head_dim(16);
    return config;
  }
  Generation Run(GenerationOptions options) {
    options.sampling.temperature = 0;
    pieces_.clear();
    options.on_text = [this](const std::string& piece) { pieces_.push_back(piece); };
    auto result = Generate(model_.get(), tokenizer_.get(), {'a'}, options);
    EXPECT_TRUE(result.ok()) << result.status().message();
    return std::move(result).value();
  }
  Generation RunTo(std::vector<std::string> stop) {
    return Run({.tokens_max = 8, .end_ids = {kEndOfText}, .stop = std::move(stop)});
  }
  std::string Streamed() const {
    std::string text;
    for (const std::string& piece : pieces_) text += piece;
    return text;
  }

  const Ids spelled_ = {'a', 'b', 'c', kWord, 'g', 0xC3, 0xA9, 'h', kEndOfText};
  LoadedModel model_{Config(), WeightsThatSpell(Config(), spelled_)};
  std::unique_ptr<Tokenizer> tokenizer_ = ByteTokenizer({"de f"});
  std::vector<std::string> pieces_;
};

TEST_F(SpellingTest, TextComesInWholeCharacters) {
  const Generation all = RunTo({});
  EXPECT_THAT(all.ids, ElementsAre('b', 'c', kWord, 'g', 0xC3, 0xA9, 'h'));
  EXPECT_EQ(all.text, "bcde fgéh");
  EXPECT_EQ(all.finish_reason, "stop");
  EXPECT_THAT(pieces_, ElementsAre("b", "c", "de f", "g", "é", "h"));
}

TEST_F(SpellingTest, TheEndTokenEndsTheTextUnlessItIsIgnored) {
  const Generation ended = Run({.tokens_max = 8, .end_ids = {'g', 'c'}});
  EXPECT_THAT(ended.ids, ElementsAre('b'));
  EXPECT_EQ(ended.text, "b");
  EXPECT_EQ(ended.finish_reason, "stop");
  const Generation ignored = Run({.tokens_max = 3, .ignore_end = true, .end_ids = {'g', 'c'}});
  EXPECT_THAT(ignored.ids, ElementsAre('b', 'c', kWord));
  EXPECT_EQ(ignored.finish_reason, "length");
  EXPECT_EQ(ignored.logprobs.size(), 3u);
}

TEST_F(SpellingTest, StopStringsAreFoundAcrossTheBordersOfTokens) {
  struct Case {
    std::string stop, text;
    size_t tokens;  // that were generated until the stop string was whole
  };
  for (const Case& c : {Case{"b", "", 1}, Case{"bc", "", 2}, Case{"cde", "b", 3},
                        Case{"e f", "bcd", 3}, Case{"bcde fg", "", 4}, Case{" fgé", "bcde", 6},
                        Case{"é", "bcde fg", 6}, Case{"h", "bcde fgé", 7}}) {
    const Generation result = RunTo({c.stop});
    EXPECT_EQ(result.text, c.text) << c.stop;
    EXPECT_EQ(result.ids.size(), c.tokens) << c.stop;
    EXPECT_EQ(result.logprobs.size(), c.tokens) << c.stop;
    EXPECT_EQ(result.finish_reason, "stop") << c.stop;
    EXPECT_EQ(Streamed(), c.text) << c.stop;
  }
}

// What might be the beginning of a stop string is held back until it is none.
TEST_F(SpellingTest, WhatOnlyBeginsLikeAStopStringIsText) {
  const Generation result = RunTo({"bcx", "f gx", "h!"});
  EXPECT_EQ(result.text, "bcde fgéh");
  EXPECT_THAT(result.ids, ElementsAre('b', 'c', kWord, 'g', 0xC3, 0xA9, 'h'));
  EXPECT_THAT(pieces_, ElementsAre("bcde ", "fg", "é", "h"));
}

TEST_F(SpellingTest, OfSeveralStopStringsTheOneThatStandsFirstEndsTheText) {
  EXPECT_EQ(RunTo({"fg", "de"}).text, "bc");
  EXPECT_EQ(RunTo({"e f", "d"}).text, "bc") << "whole with the same token";
  EXPECT_EQ(RunTo({"d", "e f"}).text, "bc");
}

TEST_F(SpellingTest, BeamsEndBeforeAStopStringToo) {
  for (const auto& [stop, text, tokens] :
       {std::tuple("e f", "bcd", 3), std::tuple("bc", "", 2), std::tuple("x", "bcde fgéh", 7)}) {
    const Generation result =
        Run({.tokens_max = 8, .end_ids = {kEndOfText}, .stop = {stop}, .beams = 2});
    EXPECT_EQ(result.text, text);
    EXPECT_EQ(static_cast<int>(result.ids.size()), tokens);
    EXPECT_EQ(result.logprobs.size(), result.ids.size());
    EXPECT_EQ(result.finish_reason, "stop");
  }
}

TEST(GeneratorTest, LogProbabilitiesAreTheModelsWhateverTheSampling) {
  LoadedModel model(SmallLlama());
  const Ids prompt = {3, 9, 2};
  GenerationOptions options{.tokens_max = 12};
  options.sampling = {.temperature = 0.7, .top_k = 4, .repetition_penalty = 1.3, .seed = 11};
  const Generation result = Generate(model.get(), nullptr, prompt, options).value();
  ASSERT_EQ(result.ids.size(), 12u);
  EXPECT_EQ(result.text, "");
  EXPECT_EQ(result.finish_reason, "length");
  Ids all = prompt;
  all.insert(all.end(), result.ids.begin(), result.ids.end());
  const std::vector<double> reference = ReferenceLogProbabilities(model.get(), all);
  for (size_t i = 0; i < result.ids.size(); ++i) {
    EXPECT_NEAR(result.logprobs[i], reference[prompt.size() - 1 + i], 1e-5) << i;
  }
  EXPECT_EQ(Generate(model.get(), nullptr, prompt, options).value().ids, result.ids);
  options.sampling.seed = 12;
  EXPECT_NE(Generate(model.get(), nullptr, prompt, options).value().ids, result.ids);
}

TEST(GeneratorTest, PromptsThatDoNotFitAreRefused) {
  LoadedModel model(SmallLlama());
  const auto error = [&](const Ids& prompt, int64_t tokens_max) {
    const auto result = Generate(model.get(), nullptr, prompt, {.tokens_max = tokens_max});
    EXPECT_EQ(result.status().code(), StatusCode::kInvalidArgument);
    return result.status().message();
  };
  EXPECT_EQ(error({}, 1), "the prompt has no token");
  EXPECT_EQ(error({1, 29}, 1), "prompt id 29: expected 0 to 28, the model's vocabulary");
  EXPECT_EQ(error(Ids(3, 1), 30), "prompt of 3 and 30 new tokens: the model has 32 positions");
  EXPECT_EQ(Generate(model.get(), nullptr, Ids(2, 1), {.tokens_max = 30})->ids.size(), 30u);
}

TEST(GeneratorTest, AnEmptyPromptIsTheEndOfTextTokenWhereThereIsNoBos) {
  const auto tokenizer = ByteTokenizer();
  EXPECT_THAT(PromptIds(*tokenizer, "").value(), ElementsAre(kEndOfText));
  EXPECT_THAT(PromptIds(*tokenizer, "ab").value(), ElementsAre('a', 'b'));
}

}  // namespace
}  // namespace trireme
