// Planner: what a layout costs before a worker is started: memory a rank, idle share of the
// pipeline, bytes on the wires, time a step.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/device/dtype.h"
#include "parallelism/parameter_layout.h"
#include "parallelism/parameters.h"
#include "parallelism/schedule.h"

namespace trireme {

// What one stage of the model costs a rank of its tensor group, from the code that allocates it.
struct StageCosts {
  int64_t layers_begin = 0, layers_end = 0;
  int64_t activation_bytes = 0;   // kept for each live microbatch
  int64_t deferred_bytes = 0;     // kept besides, from B to a W of its own
  int64_t scratch_bytes = 0;      // once
  int64_t input_bytes = 0;        // carry of a microbatch from the stage before; 0 at the first
  int64_t output_bytes = 0;       // to the next; 0 at the last
  int64_t tensor_wire_bytes = 0;  // sent by this rank for tensor sums of a microbatch, both ways
  double flop = 0;                // of a microbatch: forward, backward, weights
  double recomputed_flop = 0;     // forward again
};

// A model cut for some tensor and pipeline degree.
struct ModelFacts {
  std::vector<ParameterSpec> specs;
  std::vector<StageCosts> stages;
};

// One worker's share of a machine. Zeros: not known, and what follows from it is not said.
struct MachineFacts {
  double flop_per_second = 0;  // of matrix products as large as the model's
  double memory_bytes_per_second = 0;
  double wire_bytes_per_second = 0;
  double wire_seconds = 0;    // latency of a message
  int64_t program_bytes = 0;  // the program itself: code, libraries, threads
  int64_t memory_bytes = 0;   // what a worker may use
  // GPUs: what an operation takes while it runs, and whether sums over data ranks need an area for
  // what the others contribute.
  int64_t operation_bytes = 0;
  bool contributions_on_device = false;
};

struct PlanRequest {
  int data = 1, tensor = 1, pipeline = 1, context = 1;
  int zero_level = 0;
  std::string schedule = "1f1b";  // see MakeSchedule
  WeightTypes types;
  int microbatches = 1;     // a step
  int leaves = 1;           // batch.sum_leaves
  int64_t batch_bytes = 0;  // tokens and labels of a microbatch
  int64_t tokens = 0;       // of a step
  int64_t bucket_bytes = kBucketBytes;
};

struct MemoryItem {
  std::string what;
  int64_t bytes;
};

// The rank of a stage that needs most.
struct StagePlan {
  int stage = 0;
  int64_t layers_begin = 0, layers_end = 0;
  int64_t parameters = 0;          // of the rank's weights
  int64_t updated_parameters = 0;  // of them, those it updates (ZeRO's share)
  int live_microbatches = 0;
  int accumulators = 0;
  std::vector<MemoryItem> memory;
  int64_t memory_bytes = 0;
};

// Bytes that the busiest rank sends in a step.
struct WirePlan {
  int64_t gradients = 0;    // data axis
  int64_t weights = 0;      // data axis, ZeRO
  int64_t activations = 0;  // pipeline axis, both directions
  int64_t tensor = 0;       // tensor axis
  int64_t total() const { return gradients + weights + activations + tensor; }
};

struct Plan {
  PlanRequest layout;
  int workers = 0;
  int64_t parameters = 0;  // of the model, tied ones once
  std::vector<StagePlan> stages;
  int64_t memory_bytes_max = 0;
  double bubble_share = 0;
  WirePlan wires;
  double step_seconds = 0;     // 0: not known
  double compute_seconds = 0;  // of it: the pipeline's makespan
  double exposed_seconds = 0;  // communication and update that nothing hides
  bool fits = true;            // into MachineFacts::memory_bytes
  std::vector<std::string> notes;
};

// "8 workers: expected data 2 x tensor 2 x pipeline 1 x context 1 = 4". Ok when it fits.
Status CheckWorkers(const PlanRequest& layout, int workers);

// kInvalidArgument: layout, leaves, or schedule do not fit together; the message has the numbers.
Result<Plan> MakePlan(const PlanRequest& request, const ModelFacts& model,
                      const MachineFacts& machine);

// Every way to lay out `workers`, best first: those that fit by time a step (by memory when times
// are not known), then the others. `facts` answers for tensor and pipeline degrees, or says why the
// model cannot be cut so; `leaves` gives batch.sum_leaves for a data width.
std::vector<Plan> MakePlans(
    const PlanRequest& base, int workers,
    const std::function<Result<ModelFacts>(const PlanRequest& layout)>& facts,
    const std::function<int(int data)>& leaves, const MachineFacts& machine);

}  // namespace trireme
