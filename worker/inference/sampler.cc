#include "worker/inference/sampler.h"

#include <algorithm>
#include <cmath>
#include <unordered_set>

namespace trireme {

Status CheckSampling(const SamplingOptions& o) {
  const auto refuse = [](const char* name, double value, const char* expected) {
    return InvalidArgumentError(StrCat("--", name, " ", value, ": expected ", expected));
  };
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature))
    return refuse("temperature", o.temperature, "0 or more");
  if (o.top_k < 0) return refuse("top-k", static_cast<double>(o.top_k), "0 (all) or more");
  if (!(o.top_p > 0 && o.top_p <= 1)) return refuse("top-p", o.top_p, "above 0, at most 1");
  if (!(o.min_p >= 0 && o.min_p <= 1)) return refuse("min-p", o.min_p, "0 to 1");
  if (!(o.repetition_penalty > 0) || !std::isfinite(o.repetition_penalty)) {
    return refuse("repetition-penalty", o.repetition_penalty, "above 0");
  }
  return OkStatus();
}

int32_t Sampler::Pick(std::span<const float> logits, std::span<const int32_t> seen, int64_t draw) {
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) candidates_[i] = {logits[i], static_cast<int32_t>(i)};
  if (options_.repetition_penalty != 1.0) {
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    for (int32_t id : std::unordered_set<int32_t>(seen.begin(), seen.end())) {
      if (id < 0 || id >= static_cast<int32_t>(logits.size())) continue;
      float& logit = candidates_[id].logit;
      logit = logit > 0 ? logit / penalty : logit * penalty;
    }
  }
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  if (options_.temperature == 0) {
    return std::min_element(candidates_.begin(), candidates_.end(), before)->id;
  }
  if (options_.top_k > 0 && options_.top_k < static_cast<int64_t>(candidates_.size())) {
    std::nth_element(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(),
                     before);
    candidates_.resize(options_.top_k);
  }
  if (options_.top_p < 1 || options_.min_p > 0) {
    std::sort(candidates_.begin(), candidates_.end(), before);
    Filter();
  }

  double total = 0;
  const double largest = std::min_element(candidates_.begin(), candidates_.end(), before)->logit;
  const auto weight = [&](const Candidate& c) {
    return std::exp((c.logit - largest) / options_.temperature);
  };
  for (const Candidate& c : candidates_) total += weight(c);
  double left = rng_.UniformDouble(draw) * total;
  for (const Candidate& c : candidates_) {
    left -= weight(c);
    if (left < 0) return c.id;
  }
  return candidates_.back().id;
}

// Candidates are sorted; cuts off the tail that top-p and min-p leave out.
void Sampler::Filter() {
  const double largest = candidates_[0].logit;
  std::vector<double> p(candidates_.size());
  double total = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = std::exp((candidates_[i].logit - largest) / options_.temperature);
    total += p[i];
  }
  size_t keep = p.size();
  if (options_.top_p < 1) {
    double sum = 0;
    for (size_t i = 0; i < keep; ++i) {
      sum += p[i];
      if (sum >= options_.top_p * total) keep = i + 1;
    }
  }
  if (options_.min_p > 0) {
    // p[0] is 1: the largest probability over itself.
    while (keep > 1 && p[keep - 1] < options_.min_p) --keep;
  }
  candidates_.resize(keep);
}

Result<double> LogSumExp(std::span<const float> logits, int64_t token) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - largest);
  const double result = largest + std::log(sum);
  if (std::isfinite(result)) return result;
  const auto bad =
      std::find_if(logits.begin(), logits.end(), [](float x) { return !std::isfinite(x); });
  return DataLossError(StrCat("the model's logits are not finite at token ", token, ": id ",
                              bad - logits.begin(), " has ", *bad, ", expected a number"));
}

}  // namespace trireme
