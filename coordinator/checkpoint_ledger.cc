#include "coordinator/checkpoint_ledger.h"

#include <algorithm>

#include "cluster/base/status.h"

namespace trireme {

bool CheckpointLedger::AddPart(int64_t step, int place, std::string part,
                               const CheckpointFailure& failure, int rank) {
  Pending& pending = pending_.at(step);
  if (!pending.parts.emplace(place, std::move(part)).second) return false;
  if (!failure.why.empty() && pending.failure.why.empty()) {
    pending.failure = {StrCat("rank ", rank, ": ", failure.why), failure.exit_code};
  }
  return true;
}

bool CheckpointLedger::complete(int64_t step) const {
  return static_cast<int>(pending_.at(step).parts.size()) == workers_;
}

std::vector<std::pair<int, std::string>> CheckpointLedger::TakeParts(int64_t step) {
  Pending& pending = pending_.at(step);
  std::vector<std::pair<int, std::string>> parts;
  for (auto& [place, part] : pending.parts) parts.emplace_back(place, std::move(part));
  return parts;
}

std::vector<int64_t> CheckpointLedger::Saved(int64_t step) {
  pending_.erase(step);
  existing_.insert(std::upper_bound(existing_.begin(), existing_.end(), step), step);
  std::vector<int64_t> old;
  while (keep_ > 0 && static_cast<int64_t>(existing_.size()) > keep_) {
    old.push_back(existing_.front());
    deleting_.insert(existing_.front());
    existing_.erase(existing_.begin());
  }
  return old;
}

void CheckpointLedger::Failed(int64_t step, const CheckpointFailure& failure) {
  pending_.erase(step);
  failed_[step] = failure;
}

bool CheckpointLedger::saved(int64_t step) const {
  return std::binary_search(existing_.begin(), existing_.end(), step);
}

std::optional<CheckpointFailure> CheckpointLedger::failure(int64_t step) const {
  const auto found = failed_.find(step);
  if (found == failed_.end()) return std::nullopt;
  return found->second;
}

}  // namespace trireme
