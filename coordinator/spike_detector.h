// SpikeDetector: tells when a step's loss leaves the course of the steps before it.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>

namespace trireme {

// A spike is a loss that lies above the mean of the last kWindow ordinary steps by more than
// kDeviations standard deviations and kShare of the mean. Both are asked for: on a flat stretch
// noise alone makes deviations of a few thousandths. The first steps of a run (or of a resumed one)
// are taken as they come. A loss that is no finite number ends the run and is none of it.
class SpikeDetector {
 public:
  static constexpr int kWindow = 32;
  static constexpr double kDeviations = 6;
  static constexpr double kShare = 0.1;

  // Steps in ascending order. A sentence for the first step of a spike, nothing for the others and
  // for ordinary steps. A loss that stays up for kWindow steps is the new course.
  std::optional<std::string> Add(int64_t step, double loss);

 private:
  std::optional<std::string> Judge(int64_t step, double loss) const;

  std::deque<double> ordinary_;  // losses
  int spiking_ = 0;              // steps
};

}  // namespace trireme
