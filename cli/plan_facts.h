// What the planner asks of a run: the costs of its model's stages, and this machine's rates.
#pragma once

#include "cluster/base/status.h"
#include "parallelism/planner.h"

namespace trireme {

namespace proto {
class Config;
}

// All of a filled-in configuration.
PlanRequest PlanRequestOf(const proto::Config& config);
// The model cut for the configuration's layout. Memory comes from the code that allocates it.
ModelFacts ModelFactsOf(const proto::Config& config);

// Rates and limits of one worker.
struct MachineQuestion {
  int workers_on_host = 1;
  double flop_per_second = 0;  // 0: measured, with products as large as the model's or smaller
  double wire_bytes_per_second = 0;
  int64_t memory_bytes = 0;  // 0: this host's, shared among its workers
};
// What is known without measuring: limits, and the rates that the question names.
MachineFacts MachineLimits(const MachineQuestion& question);
// Adds the other rates. Takes a few seconds at most, whatever the model's size.
void MeasureMachine(const proto::Config& config, const MachineQuestion& question,
                    MachineFacts* facts);

}  // namespace trireme
