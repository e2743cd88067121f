#include "worker/evaluation/scoring.h"

#include <algorithm>

#include "worker/inference/generator.h"
#include "worker/inference/sampler.h"

namespace trireme {

Result<ContinuationScore> ScoreContinuation(LanguageModel* model,
                                            const std::vector<int32_t>& context,
                                            const std::vector<int32_t>& continuation) {
  const ModelShape& shape = model->shape();
  if (context.empty()) return InvalidArgumentError("context: expected at least one token");
  if (continuation.empty())
    return InvalidArgumentError("continuation: expected at least one token");
  std::vector<int32_t> ids = context;
  ids.insert(ids.end(), continuation.begin(), continuation.end());
  for (int32_t id : ids) {
    if (id >= 0 && id < shape.vocab_size) continue;
    return InvalidArgumentError(
        StrCat("id ", id, ": expected 0 to ", shape.vocab_size - 1, ", the model's vocabulary"));
  }
  ids.pop_back();  // nothing is predicted from the last token
  if (std::ssize(continuation) > shape.max_positions) {
    return InvalidArgumentError(StrCat("a continuation of ", continuation.size(),
                                       " tokens: the model has ", shape.max_positions,
                                       " positions"));
  }
  // As lm-eval does: of a long context the last part counts.
  const int64_t excess = std::max<int64_t>(0, std::ssize(ids) - shape.max_positions);
  ids.erase(ids.begin(), ids.begin() + excess);
  const auto length = static_cast<int64_t>(ids.size());
  LanguageModel::Session session(model, 1, length);
  // All but the last token of the context only fill the cache.
  const std::span<const int32_t> all(ids);
  const size_t first = ids.size() - continuation.size();
  if (first > 0) session.Append(all.first(first));
  const Tensor logits = session.AppendWithAllLogits(all.subspan(first));
  ContinuationScore score;
  for (size_t i = 0; i < continuation.size(); ++i) {
    const std::span<const float> row(logits.as<float>() + i * shape.vocab_size,
                                     static_cast<size_t>(shape.vocab_size));
    ASSIGN_OR_RETURN(const double normaliser,
                     LogSumExp(row, std::ssize(context) + static_cast<int64_t>(i)));
    const double logprob = row[continuation[i]] - normaliser;
    score.logprob += logprob;
    score.token_logprobs.push_back(logprob);
    const auto best = std::max_element(row.begin(), row.end()) - row.begin();
    score.greedy = score.greedy && best == continuation[i];
  }
  return score;
}

Result<std::pair<std::vector<int32_t>, std::vector<int32_t>>> EncodePair(const Tokenizer& tokenizer,
                                                                         std::string context,
                                                                         std::string continuation) {
  const size_t end = context.find_last_not_of(" \t\n\r\f\v");
  const size_t keep = end == std::string::npos ? 0 : end + 1;
  continuation = context.substr(keep) + continuation;
  context.resize(keep);
  ASSIGN_OR_RETURN(std::vector<int32_t> context_ids, PromptIds(tokenizer, context));
  std::vector<int32_t> all;
  if (context.empty()) {
    all = context_ids;
    tokenizer.Encode(continuation, &all);
  } else {
    ASSIGN_OR_RETURN(all, PromptIds(tokenizer, context + continuation));
  }
  const size_t cut = std::min(context_ids.size(), all.size());
  return std::pair(std::vector<int32_t>(all.begin(), all.begin() + cut),
                   std::vector<int32_t>(all.begin() + cut, all.end()));
}

}  // namespace trireme
