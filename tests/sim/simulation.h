// A run in simulated time: the production state machines of coordinator and workers, a network that
// delays, workers that die, freeze or hang, storage that fails, a coordinator that is late. One
// seed is one history.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "coordinator/coordinator_state.h"
#include "worker/training/control_client.h"

namespace trireme {

enum class Fault { kCrash, kFreeze, kHang, kStop, kCoordinatorLate };

struct SimulatedFault {
  Fault fault;
  int64_t at_step;  // when the victim enters this step
  int victim;       // index of a worker
};

struct SimulationOptions {
  uint64_t seed = 0;
  Mesh mesh;
  int64_t steps_total = 10;
  int64_t checkpoint_every = 0;
  int64_t checkpoint_keep = 2;
  int64_t validation_every = 0;
  double storage_failure_rate = 0;
  Micros delay_max = 20'000;
  Micros phase_max = 150'000;  // of forward, and of reduce
};

// What outlives a job: files of the run, checkpoints in the store, and what was observed.
struct SimulatedRun {
  uint64_t generation = 0;
  std::set<int64_t> store;                      // steps of checkpoints that are complete
  std::vector<std::pair<int64_t, bool>> lines;  // metrics.jsonl: (step, is a validation)
  std::map<int64_t, double> loss_of;            // every value ever written for a step
  std::map<std::string, int> events;            // by kind
  std::vector<Verdict> verdicts;                // one a generation
  std::vector<std::string> violations;          // of an invariant; must stay empty
  Micros worst_detection = 0;                   // from a fault to the verdict
};

// Runs one job from the newest checkpoint in the store until it ends; adds to `run`.
void SimulateJob(const SimulationOptions& options, const std::vector<SimulatedFault>& faults,
                 SimulatedRun* run);

// The loss that every worker computes for `step`: what makes two values of a step a bug.
double LossOfStep(int64_t step);

}  // namespace trireme
