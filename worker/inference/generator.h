// Generation: tokens after a prompt, one by one or by beams.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "worker/inference/language_model.h"
#include "worker/inference/sampler.h"
#include "worker/text/tokenizer.h"

namespace trireme {

struct GenerationOptions {
  SamplingOptions sampling;
  int64_t tokens_max = 100;
  bool ignore_end = false;        // the end token is a token like others
  std::vector<int32_t> end_ids;   // any of them ends the text
  std::vector<std::string> stop;  // so does any of these strings; needs a tokenizer
  int beams = 1;                  // above 1: beam search, sampling is not used
  double length_penalty = 1.0;
  // Called with pieces of text as they become certain (whole characters, never part of a stop
  // string). Needs a tokenizer; not called for beams.
  std::function<void(const std::string&)> on_text;
};

struct Generation {
  std::vector<int32_t> ids;      // what was generated, without the end token
  std::vector<double> logprobs;  // of each id under the model itself
  std::string text;              // empty without a tokenizer; ends before a stop string
  std::string finish_reason;     // "stop", "length"
};

// tokenizer: may be null when neither `stop` nor text is wanted. kInvalidArgument: ids outside the
// vocabulary; a prompt longer than learned positions allow. kDataLoss: logits that are not finite.
Result<Generation> Generate(LanguageModel* model, const Tokenizer* tokenizer,
                            const std::vector<int32_t>& prompt, const GenerationOptions& options);

// The ids of a text prompt: BOS first where the tokenizer says so; an empty prompt is BOS alone, or
// the end-of-text token where there is no BOS. kInvalidArgument when there is neither.
Result<std::vector<int32_t>> PromptIds(const Tokenizer& tokenizer, const std::string& prompt);

}  // namespace trireme
