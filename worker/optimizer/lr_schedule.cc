#include "worker/optimizer/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "proto/config.pb.h"

namespace trireme {
namespace {

Status Wrong(const char* key, const std::string& value, const char* expected) {
  return InvalidArgumentError(StrCat(key, ": ", value, ", expected ", expected));
}

}  // namespace

Result<LrSchedule> LrSchedule::Create(const proto::OptimizerConfig& optimizer,
                                      const proto::LrScheduleConfig& schedule) {
  static const std::map<std::string, Kind> kinds = {{"constant", Kind::kConstant},
                                                    {"linear", Kind::kLinear},
                                                    {"cosine", Kind::kCosine},
                                                    {"cosine_restarts", Kind::kCosineRestarts},
                                                    {"inverse_sqrt", Kind::kInverseSqrt},
                                                    {"wsd", Kind::kWsd},
                                                    {"step", Kind::kStep},
                                                    {"polynomial", Kind::kPolynomial}};
  const auto kind = kinds.find(schedule.name());
  if (kind == kinds.end()) {
    return Wrong(
        "lr_schedule.name", schedule.name(),
        "constant, linear, cosine, cosine_restarts, inverse_sqrt, wsd, step or polynomial");
  }
  LrSchedule s;
  s.kind_ = kind->second;
  s.peak_ = optimizer.lr();
  s.warmup_ = schedule.warmup_steps();
  s.steps_ = schedule.steps();
  s.final_ratio_ = schedule.final_lr_ratio();
  s.decay_start_ =
      schedule.has_decay_start() ? schedule.decay_start() : std::max(s.warmup_, s.steps_ * 4 / 5);
  s.step_size_ =
      schedule.has_step_size() ? schedule.step_size() : std::max<int64_t>(1, s.steps_ / 4);
  s.gamma_ = schedule.has_gamma() ? schedule.gamma() : 0.5;
  s.restart_period_ = schedule.has_restart_period() ? schedule.restart_period()
                                                    : std::max<int64_t>(1, s.steps_ / 5);
  s.restart_mult_ = schedule.has_restart_mult() ? schedule.restart_mult() : 2;
  s.power_ = schedule.has_power() ? schedule.power() : 2;
  if (!(s.peak_ >= 0) || std::isinf(s.peak_)) {
    return Wrong("optimizer.lr", StrCat(s.peak_), "a number of at least 0");
  }
  if (s.steps_ < 1) return Wrong("lr_schedule.steps", StrCat(s.steps_), "at least 1");
  if (s.warmup_ < 0) {
    return Wrong("lr_schedule.warmup_steps", StrCat(s.warmup_), "at least 0");
  }
  if (!(s.final_ratio_ >= 0 && s.final_ratio_ <= 1)) {
    return Wrong("lr_schedule.final_lr_ratio", StrCat(s.final_ratio_), "0 to 1");
  }
  if (s.decay_start_ < s.warmup_) {
    return Wrong("lr_schedule.decay_start", StrCat(s.decay_start_), "at least warmup_steps");
  }
  if (s.step_size_ < 1) return Wrong("lr_schedule.step_size", StrCat(s.step_size_), "at least 1");
  if (s.restart_period_ < 1) {
    return Wrong("lr_schedule.restart_period", StrCat(s.restart_period_), "at least 1");
  }
  if (!(s.restart_mult_ >= 1)) {
    return Wrong("lr_schedule.restart_mult", StrCat(s.restart_mult_), "at least 1");
  }
  return s;
}

double LrSchedule::At(int64_t step) const {
  CHECK_GE(step, 1);
  const int64_t s = step - 1;
  if (s < warmup_) return peak_ * static_cast<double>(s + 1) / static_cast<double>(warmup_);
  // From the peak (above 1) to the last rate, which is kept after the last step.
  const auto between = [this](double above) {
    return peak_ * (final_ratio_ + (1 - final_ratio_) * above);
  };
  const auto half_cosine = [](double progress) {
    return 0.5 * (1 + std::cos(std::numbers::pi * progress));
  };
  // Share of the way from `begin` to the end of the run.
  const auto progress = [this, s](int64_t begin) {
    if (s >= steps_) return 1.0;
    return static_cast<double>(s - begin) / static_cast<double>(steps_ - begin);
  };
  switch (kind_) {
    case Kind::kConstant:
      return peak_;
    case Kind::kLinear:
      return between(static_cast<double>(std::max<int64_t>(0, steps_ - s)) /
                     static_cast<double>(std::max<int64_t>(1, steps_ - warmup_)));
    case Kind::kCosine:
      return between(half_cosine(progress(warmup_)));
    case Kind::kCosineRestarts: {
      double t = static_cast<double>(s - warmup_), period = static_cast<double>(restart_period_);
      while (t >= period) {
        t -= period;
        period *= restart_mult_;
      }
      return between(half_cosine(t / period));
    }
    case Kind::kInverseSqrt:
      return peak_ * std::sqrt(static_cast<double>(std::max<int64_t>(1, warmup_)) /
                               static_cast<double>(s + 1));
    case Kind::kWsd:
      return s < decay_start_ ? peak_ : between(1 - std::sqrt(progress(decay_start_)));
    case Kind::kStep:
      return peak_ * std::pow(gamma_, static_cast<double>(s / step_size_));
    case Kind::kPolynomial:
      return between(std::pow(1 - progress(warmup_), power_));
  }
  return peak_;
}

}  // namespace trireme
