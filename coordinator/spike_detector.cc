#include "coordinator/spike_detector.h"

#include <cmath>
#include <cstdio>

#include "cluster/base/status.h"

namespace trireme {
namespace {

std::string Short(double value) {
  char text[32];
  snprintf(text, sizeof(text), "%.4g", value);
  return text;
}

}  // namespace

std::optional<std::string> SpikeDetector::Judge(int64_t step, double loss) const {
  if (std::ssize(ordinary_) < kWindow) return std::nullopt;
  double sum = 0, squares = 0;
  for (const double value : ordinary_) sum += value;
  const double mean = sum / kWindow;
  for (const double value : ordinary_) squares += (value - mean) * (value - mean);
  const double deviation = std::sqrt(squares / kWindow);
  if (loss <= mean + kDeviations * deviation || loss <= mean + kShare * std::fabs(mean)) {
    return std::nullopt;
  }
  return StrCat("the loss of step ", step, " is ", Short(loss), ", the ", kWindow,
                " steps before had ", Short(mean), " with a standard deviation of ",
                Short(deviation));
}

std::optional<std::string> SpikeDetector::Add(int64_t step, double loss) {
  const std::optional<std::string> spike = Judge(step, loss);
  if (spike) {
    if (++spiking_ == kWindow) ordinary_.clear();
    return spiking_ == 1 ? spike : std::nullopt;
  }
  spiking_ = 0;
  ordinary_.push_back(loss);
  if (std::ssize(ordinary_) > kWindow) ordinary_.pop_front();
  return std::nullopt;
}

}  // namespace trireme
