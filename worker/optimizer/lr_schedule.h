// Learning-rate schedules: a pure function of the step.
#pragma once

#include <cstdint>
#include <string>

#include "cluster/base/status.h"

namespace trireme {

namespace proto {
class OptimizerConfig;
class LrScheduleConfig;
}  // namespace proto

// lr of the step with S = step - 1 (steps count from 1). S < warmup_steps: peak (S + 1) /
// warmup_steps; then constant, linear, cosine, cosine_restarts, inverse_sqrt, wsd, step or
// polynomial. A warm-up or a decay_start beyond the last step is never reached.
class LrSchedule {
 public:
  static Result<LrSchedule> Create(const proto::OptimizerConfig& optimizer,
                                   const proto::LrScheduleConfig& schedule);
  double At(int64_t step) const;

 private:
  enum class Kind {
    kConstant,
    kLinear,
    kCosine,
    kCosineRestarts,
    kInverseSqrt,
    kWsd,
    kStep,
    kPolynomial
  };
  Kind kind_ = Kind::kConstant;
  double peak_ = 0, final_ratio_ = 0, gamma_ = 0, restart_mult_ = 1, power_ = 1;
  int64_t warmup_ = 0, steps_ = 0, decay_start_ = 0, step_size_ = 1, restart_period_ = 1;
};

}  // namespace trireme
