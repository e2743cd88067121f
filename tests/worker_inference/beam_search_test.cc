// Beam search against brute force: beams wide enough for every continuation of a tiny vocabulary
// must find the best of all of them.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "tests/worker_inference/loaded_model.h"
#include "worker/inference/generator.h"

namespace trireme {
namespace {

using Ids = std::vector<int32_t>;

constexpr int32_t kVocabulary = 5, kEnd = 4;

struct Continuation {
  Ids ids;  // the end token included
  std::vector<double> logprobs;
  double score = -std::numeric_limits<double>::infinity();
};

// The best continuation of at most `tokens_max` tokens by sum / length^penalty, every one of which
// is run through the model by itself. `ids` is where the search stands.
void SearchAll(LanguageModel* model, const Ids& prompt, int tokens_max, double penalty, Ids* ids,
               Continuation* best) {
  if (static_cast<int>(ids->size()) == tokens_max || (!ids->empty() && ids->back() == kEnd)) {
    Ids all = prompt;
    all.insert(all.end(), ids->begin(), ids->end());
    std::vector<double> logprobs = ReferenceLogProbabilities(model, all);
    logprobs.erase(logprobs.begin(), logprobs.end() - std::ssize(*ids));
    const double score = std::accumulate(logprobs.begin(), logprobs.end(), 0.0) /
                         std::pow(static_cast<double>(ids->size()), penalty);
    if (score > best->score) *best = {*ids, logprobs, score};
    return;
  }
  for (int32_t id = 0; id < kVocabulary; ++id) {
    ids->push_back(id);
    SearchAll(model, prompt, tokens_max, penalty, ids, best);
    ids->pop_back();
  }
}

// All continuations of n tokens that go on from these, best first, as Ids and sums.
using Scored = std::vector<std::pair<double, Ids>>;
Scored Extensions(LanguageModel* model, const Ids& prompt, const Scored& running) {
  Scored extensions;
  for (const auto& [unused, ids] : running) {
    for (int32_t id = 0; id < kVocabulary; ++id) {
      Ids longer = ids, all = prompt;
      longer.push_back(id);
      all.insert(all.end(), longer.begin(), longer.end());
      const std::vector<double> logprobs = ReferenceLogProbabilities(model, all);
      extensions.push_back(
          {std::accumulate(logprobs.end() - std::ssize(longer), logprobs.end(), 0.0), longer});
    }
  }
  std::sort(extensions.begin(), extensions.end(), std::greater<>());
  return extensions;
}

// Two beams over six tokens with nothing that ends: at every length the two best extensions go on.
TEST(BeamSearchTest, NarrowBeamsKeepTheBestOfEveryLength) {
  proto::ModelConfig config = SmallLlama();
  config.set_vocab_size(kVocabulary);
  LoadedModel model(config);
  int narrow = 0;
  for (const Ids& prompt : {Ids{0}, Ids{1, 3}, Ids{2, 2, 0}, Ids{3, 0, 1}}) {
    for (const int k : {2, 3}) {
      Scored running = {{0.0, {}}};
      for (int n = 0; n < 6; ++n) {
        running = Extensions(model.get(), prompt, running);
        running.resize(k);
      }
      const auto result = Generate(model.get(), nullptr, prompt, {.tokens_max = 6, .beams = k});
      EXPECT_EQ(result->ids, running[0].second) << k;
      EXPECT_NEAR(std::accumulate(result->logprobs.begin(), result->logprobs.end(), 0.0),
                  running[0].first, 1e-4);
      const auto greedy =
          Generate(model.get(), nullptr, prompt, {.sampling = {.temperature = 0}, .tokens_max = 6});
      narrow += greedy->ids != result->ids;
    }
  }
  EXPECT_GT(narrow, 0) << "not all of them are greedy";
}

TEST(BeamSearchTest, FindsTheBestOfAllContinuations) {
  proto::ModelConfig config = SmallLlama();
  config.set_vocab_size(kVocabulary);
  LoadedModel model(config);
  int ended = 0, longest = 0, not_greedy = 0;
  for (const Ids& prompt : {Ids{0}, Ids{1, 3}, Ids{2, 2, 0}, Ids{3, 0, 1}}) {
    for (const double penalty : {-1.0, 0.0, 1.0, 2.0}) {
      Continuation best;
      Ids ids;
      SearchAll(model.get(), prompt, 3, penalty, &ids, &best);
      GenerationOptions options{.tokens_max = 3, .end_ids = {kEnd}, .beams = 25};
      options.length_penalty = penalty;
      const Generation found = Generate(model.get(), nullptr, prompt, options).value();
      const bool ends = best.ids.back() == kEnd;
      if (ends) best.ids.pop_back();
      EXPECT_EQ(found.ids, best.ids) << "penalty " << penalty;
      EXPECT_EQ(found.finish_reason, ends ? "stop" : "length");
      ASSERT_EQ(found.logprobs.size(), best.ids.size());
      for (size_t i = 0; i < best.ids.size(); ++i) {
        EXPECT_NEAR(found.logprobs[i], best.logprobs[i], 1e-5) << i;
      }
      ++(ends ? ended : longest);
      options.beams = 1;
      options.sampling.temperature = 0;
      not_greedy += Generate(model.get(), nullptr, prompt, options).value().ids != found.ids;
    }
  }
  // The cases are not all of one kind.
  EXPECT_GT(ended, 0);
  EXPECT_GT(longest, 0);
  EXPECT_GT(not_greedy, 0);
}

}  // namespace
}  // namespace trireme
