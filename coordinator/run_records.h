// metrics.jsonl and events.jsonl of a run: their lines, and what a resumed run finds in them.
#pragma once

#include <cstdint>
#include <string>

#include "cluster/base/status.h"
#include "coordinator/control_types.h"

namespace trireme {

// One line each, without its line end. Numbers that JSON has no word for (NaN) become null.
std::string MetricsLine(const StepMetrics& metrics);
std::string MetricsLine(const ValidationMetrics& metrics);
std::string EventLine(const Event& event, double wall_seconds);

struct MetricsSoFar {
  bool validated_last = false;  // there is a validation line of `step`
};

// Cuts the lines of steps above `step` from RUN_DIR/metrics.jsonl (all are written again later) and
// torn or damaged ones, and says what the others hold. No file: nothing.
Result<MetricsSoFar> CutMetrics(const std::string& run_dir, int64_t step);

}  // namespace trireme
