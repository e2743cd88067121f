// Log-likelihoods of continuations: the request that evaluation harnesses make of a model.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "worker/inference/language_model.h"
#include "worker/text/tokenizer.h"

namespace trireme {

struct ContinuationScore {
  double logprob = 0;
  bool greedy = true;  // every token is the likeliest one
  std::vector<double> token_logprobs;
};

// context and continuation: ids, neither empty. kInvalidArgument: an id outside the vocabulary, or
// more tokens than positions. kDataLoss: logits that are not finite.
Result<ContinuationScore> ScoreContinuation(LanguageModel* model,
                                            const std::vector<int32_t>& context,
                                            const std::vector<int32_t>& continuation);

// Encodes both texts together and cuts where the context's tokens end: trailing spaces of the
// context go to the continuation, BOS comes first as for prompts, and an empty context is BOS or
// the end-of-text token.
Result<std::pair<std::vector<int32_t>, std::vector<int32_t>>> EncodePair(const Tokenizer& tokenizer,
                                                                         std::string context,
                                                                         std::string continuation);

}  // namespace trireme
