// The progress of a run for people: one line that is rewritten on a terminal, a plain line every
// few seconds elsewhere.
#pragma once

#include <cstdio>
#include <deque>
#include <string>

#include "cluster/base/clock.h"
#include "coordinator/control_types.h"

namespace trireme {

// "1 h 02 min", "3 min 05 s", "12 s".
std::string DurationText(double seconds);

// Where the run is. seconds_left < 0: not known yet.
std::string ProgressText(const StepMetrics& metrics, int64_t steps_total, double seconds_left);

class ProgressLine {
 public:
  // out: where lines go (not owned); terminal: whether it can rewrite a line.
  ProgressLine(FILE* out, bool terminal, int64_t steps_total)
      : out_(out), terminal_(terminal), steps_total_(steps_total) {}

  void Step(const StepMetrics& metrics, Micros now);
  // A line that stays, above the progress.
  void Say(const std::string& line);

 private:
  void Erase();
  FILE* out_;
  bool terminal_;
  int64_t steps_total_;
  bool drawn_ = false;
  Micros last_line_ = 0;
  bool any_line_ = false;
  std::deque<std::pair<Micros, int64_t>> recent_;  // when which step was done
};

}  // namespace trireme
