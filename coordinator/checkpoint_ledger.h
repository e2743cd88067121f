// Which checkpoints are being written, which exist, and which may go.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/control_types.h"

namespace trireme {

// Why a checkpoint does not exist; empty when it does.
struct CheckpointFailure {
  std::string why;
  int exit_code = 4;  // of a run that ends without it
};

class CheckpointLedger {
 public:
  // existing: steps of checkpoints that verify, ascending. keep: how many stay, 0 for all.
  CheckpointLedger(int workers, std::vector<int64_t> existing, int64_t keep)
      : workers_(workers), keep_(keep), existing_(std::move(existing)) {}

  // The workers have been asked for a checkpoint after `step`.
  void Expect(int64_t step) { pending_.try_emplace(step); }
  bool expects(int64_t step) const { return pending_.count(step) != 0; }

  // A worker's part, or why it has none. False when this place was heard already.
  bool AddPart(int64_t step, int place, std::string part, const CheckpointFailure& failure,
               int rank);
  bool complete(int64_t step) const;
  // Of the first worker that failed; empty when all wrote.
  const CheckpointFailure& error(int64_t step) const { return pending_.at(step).failure; }
  std::vector<std::pair<int, std::string>> TakeParts(int64_t step);

  // The manifest is in place and verified. Returns the older ones that may be deleted now.
  std::vector<int64_t> Saved(int64_t step);
  void Failed(int64_t step, const CheckpointFailure& failure);
  void Deleted(int64_t step) { deleting_.erase(step); }

  // Nothing is being written, committed or deleted.
  bool idle() const { return pending_.empty() && deleting_.empty(); }
  bool saved(int64_t step) const;
  // Why the checkpoint of `step` failed; nullopt when it did not.
  std::optional<CheckpointFailure> failure(int64_t step) const;
  // The newest that exists, -1 for none.
  int64_t newest() const { return existing_.empty() ? -1 : existing_.back(); }

 private:
  struct Pending {
    std::map<int, std::string> parts;  // by place
    CheckpointFailure failure;
  };

  int workers_;
  int64_t keep_;
  std::vector<int64_t> existing_;
  std::map<int64_t, Pending> pending_;
  std::set<int64_t> deleting_;
  std::map<int64_t, CheckpointFailure> failed_;
};

}  // namespace trireme
