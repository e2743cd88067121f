// A run as its folder shows it: from any terminal, while it trains and after its end.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "coordinator/control_types.h"

namespace trireme {

struct RunStatus {
  std::string run_dir;
  std::string state;  // running, done, stopped, failed, died (no verdict and nobody at work)
  uint64_t generation = 0;
  int64_t step = 0;                      // the last that all workers finished
  std::string last_step_line;            // JSON of metrics.jsonl; empty when there is none
  std::string last_validation_line;      // likewise
  std::vector<std::string> last_events;  // JSON lines, oldest first
  std::string members;                   // JSON array of the last start event; empty
  std::vector<int64_t> checkpoints;      // by the journal
  std::optional<Verdict> verdict;
};

// kInvalidArgument when the folder is no run's; kDataLoss when its journal is damaged.
Result<RunStatus> ReadRunStatus(const std::string& run_dir, int events_max);

// One JSON object.
std::string RunStatusJson(const RunStatus& status);
// Some lines for people.
std::string RunStatusText(const RunStatus& status);

}  // namespace trireme
