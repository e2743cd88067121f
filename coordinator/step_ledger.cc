#include "coordinator/step_ledger.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>

#include "cluster/base/checksum.h"
#include "proto/control.pb.h"

namespace trireme {
namespace {

constexpr int64_t kPartTokensMax = int64_t{1} << 36;  // sums of parts stay whole numbers

// Replicas compute the same bits; any NaN equals any other.
bool SameBits(double a, double b) {
  return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

std::string Exact(double value) {
  char text[40];
  snprintf(text, sizeof(text), "%.17g", value);
  return text;
}

}  // namespace

Status LossSum::Add(const proto::LossPart& part, int rank) {
  if (part.label_tokens() < 0 || part.label_tokens() > kPartTokensMax) {
    return DataLossError(StrCat("loss of part ", part.part(), ": rank ", rank, " says ",
                                part.label_tokens(), " label tokens"));
  }
  const auto [at, added] =
      parts_.try_emplace(part.part(), Part{part.loss_sum(), part.label_tokens(), rank});
  const Part& first = at->second;
  if (added ||
      (SameBits(first.loss_sum, part.loss_sum()) && first.label_tokens == part.label_tokens())) {
    return OkStatus();
  }
  return DataLossError(StrCat("loss of part ", part.part(), ": rank ", first.rank, " says ",
                              Exact(first.loss_sum), " over ", first.label_tokens, " tokens, rank ",
                              rank, " says ", Exact(part.loss_sum()), " over ",
                              part.label_tokens()));
}

double LossSum::Mean() const {
  double sum = 0;
  for (const auto& [number, part] : parts_) sum += part.loss_sum;
  const int64_t tokens = label_tokens();
  return tokens == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(tokens);
}

int64_t LossSum::label_tokens() const {
  int64_t tokens = 0;
  for (const auto& [number, part] : parts_) tokens += part.label_tokens;
  return tokens;
}

Status StepTally::Agreed::Add(const char* name, double other, int other_rank) {
  if (!value) {
    value = other;
    rank = other_rank;
    return OkStatus();
  }
  if (SameBits(*value, other)) return OkStatus();
  return DataLossError(StrCat(name, ": rank ", rank, " says ", Exact(*value), ", rank ", other_rank,
                              " says ", Exact(other)));
}

Status StepTally::Add(const proto::StepReport& report, int rank, int part_of_model) {
  --missing_;
  for (const proto::LossPart& part : report.loss_parts()) RETURN_IF_ERROR(loss_.Add(part, rank));
  if (report.has_grad_norm()) {
    RETURN_IF_ERROR(grad_norm_.Add("gradient norm", report.grad_norm(), rank));
  }
  if (report.has_lr()) RETURN_IF_ERROR(lr_.Add("learning rate", report.lr(), rank));
  if (report.has_state_checksum()) {
    const uint64_t own = report.state_checksum();
    const Checksum& first = state_.try_emplace(part_of_model, Checksum{own, rank}).first->second;
    if (first.value != own) {
      return DataLossError(StrCat("weights and optimizer state: rank ", first.rank,
                                  " has checksum ", ChecksumHex(first.value), ", rank ", rank,
                                  " has ", ChecksumHex(own)));
    }
  }
  seconds_ = std::max(seconds_, report.seconds());
  flop_ += report.flop();
  memory_bytes_ = std::max<int64_t>(memory_bytes_, report.memory_bytes());
  return OkStatus();
}

StepMetrics StepTally::Metrics(int64_t step, int64_t label_tokens_before,
                               double peak_flop_per_second, uint64_t generation) const {
  StepMetrics metrics;
  metrics.step = step;
  metrics.loss = loss_.Mean();
  metrics.grad_norm = grad_norm_.value.value_or(0);
  metrics.lr = lr_.value.value_or(0);
  metrics.tokens = label_tokens_before + loss_.label_tokens();
  metrics.step_ms = seconds_ * 1e3;
  if (seconds_ > 0) {
    metrics.tokens_per_second = static_cast<double>(loss_.label_tokens()) / seconds_;
    if (peak_flop_per_second > 0) metrics.mfu = flop_per_second() / peak_flop_per_second;
  }
  metrics.memory_bytes_max = memory_bytes_;
  metrics.generation = generation;
  return metrics;
}

Status ValidationTally::Add(const proto::ValidationReport& report, int rank) {
  --missing_;
  for (const proto::LossPart& part : report.loss_parts()) RETURN_IF_ERROR(loss_.Add(part, rank));
  return OkStatus();
}

}  // namespace trireme
