// Sampler: picks the next token from logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cluster/base/rng.h"
#include "cluster/base/status.h"

namespace trireme {

struct SamplingOptions {
  double temperature = 1.0;  // 0: greedy, ties go to the lowest id
  int64_t top_k = 0;         // keep the k largest; 0: all
  double top_p = 1.0;        // keep the fewest whose probabilities reach p; Holtzman et al. 2019
  double min_p = 0.0;        // keep those of at least min_p times the largest probability
  double repetition_penalty = 1.0;  // of tokens seen before; Keskar et al. 2019, arXiv:1909.05858
  uint64_t seed = 0;
};

// kInvalidArgument names the option, its value and what was expected.
Status CheckSampling(const SamplingOptions& options);

class Sampler {
 public:
  explicit Sampler(const SamplingOptions& options)
      : options_(options), rng_(options.seed, RngUse::kSampling, 0) {}

  // The token after `seen` (prompt and what was generated). The filters act in the order of the
  // options. Draw number `draw` of the seed: the same call gives the same token.
  int32_t Pick(std::span<const float> logits, std::span<const int32_t> seen, int64_t draw);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  void Filter();

  SamplingOptions options_;
  CounterRng rng_;
  std::vector<Candidate> candidates_;
};

// log sum exp(logits), in double; log softmax(logits)[id] is logits[id] less that. kDataLoss,
// naming the first that is none, when a logit is NaN or plus infinity. token: the one that they
// predict, by its place in the text from 0, for the message.
Result<double> LogSumExp(std::span<const float> logits, int64_t token);

}  // namespace trireme
