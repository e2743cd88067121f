// Adds up what the workers report of a step or a validation, and checks that replicas agree.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "coordinator/control_types.h"

namespace trireme {

namespace proto {
class LossPart;
class StepReport;
class ValidationReport;
}  // namespace proto

// Sums of fixed parts of a batch, in ascending order of the part whoever reports them.
class LossSum {
 public:
  // kDataLoss when a part was reported before with other bits.
  Status Add(const proto::LossPart& part, int rank);
  double Mean() const;
  int64_t label_tokens() const;

 private:
  struct Part {
    double loss_sum;
    int64_t label_tokens;
    int rank;  // who said it first
  };
  std::map<int, Part> parts_;
};

// One step in flight. `workers` reports are awaited.
class StepTally {
 public:
  explicit StepTally(int workers) : missing_(workers) {}

  // part_of_model: equal for ranks that are replicas of each other. kDataLoss names two ranks
  // that disagree.
  Status Add(const proto::StepReport& report, int rank, int part_of_model);
  bool complete() const { return missing_ == 0; }
  // Of all workers together; 0 where it is not known.
  double flop_per_second() const { return seconds_ > 0 ? flop_ / seconds_ : 0; }
  // peak_flop_per_second: of all workers together, 0 when it is not known.
  StepMetrics Metrics(int64_t step, int64_t label_tokens_before, double peak_flop_per_second,
                      uint64_t generation) const;

 private:
  struct Agreed {
    std::optional<double> value;
    int rank = 0;
    Status Add(const char* name, double other, int other_rank);
  };

  struct Checksum {
    uint64_t value;
    int rank;  // who said it first
  };

  int missing_;
  LossSum loss_;
  std::map<int, Checksum> state_;  // by part of the model
  Agreed grad_norm_;
  Agreed lr_;
  double seconds_ = 0;
  double flop_ = 0;
  int64_t memory_bytes_ = 0;
};

// One validation in flight.
class ValidationTally {
 public:
  explicit ValidationTally(int workers) : missing_(workers) {}
  Status Add(const proto::ValidationReport& report, int rank);
  bool complete() const { return missing_ == 0; }
  double Mean() const { return loss_.Mean(); }

 private:
  int missing_;
  LossSum loss_;
};

}  // namespace trireme
