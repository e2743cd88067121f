// The roofline of a training step: what every kernel moves and computes, and how long that takes.
#pragma once

#include <string>
#include <vector>

#include "cli/machine_file.h"
#include "parallelism/planner.h"

namespace trireme {

namespace proto {
class Config;
}

// All calls of one kernel in a step of the busiest worker.
struct KernelEstimate {
  enum class Kind : uint8_t { kProduct, kAttentionForward, kAttentionBackward, kMemory, kUpdate };
  std::string name;
  Kind kind;
  int64_t calls;
  double flop;                  // of all calls
  double bytes;                 // read and written, each operand once
  double roofline_seconds = 0;  // the larger of FLOP over peak and bytes over bandwidth
  double expected_seconds = 0;  // the same with the shares of the peaks that are reached
};

struct Roofline {
  std::vector<KernelEstimate> kernels;  // in the order of a step
  double roofline_seconds = 0;          // of all kernels: no pipeline, no wires
  double expected_seconds = 0;
  double update_seconds = 0;    // of the expected ones: norm and update, once a step
  int64_t operation_bytes = 0;  // memory that the hungriest kernel takes while it runs
};

// For the first worker of the busiest stage, laid out as the configuration says.
Roofline EstimateKernels(const proto::Config& config, const MachineFile& machine);

// What the planner reckons with: kernels' time as a rate of products.
// wire: the link's where all workers are on one host, else the network's.
MachineFacts FactsOf(const MachineFile& machine, const Roofline& roofline, const ModelFacts& model,
                     const PlanRequest& request, int hosts);

}  // namespace trireme
