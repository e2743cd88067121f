// StageModel: what the pipeline executor asks of a model. Declared here so that this room knows
// nothing of kernels.
#pragma once

#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/device/tensor.h"
#include "parallelism/parameters.h"

namespace trireme {

// Named tensors that travel between stages (hidden states; later encoder memory, routing sums).
// Views: the memory belongs to whoever made them and lives until the microbatch's backward is over.
struct Carry {
  struct Item {
    std::string name;
    Tensor tensor;
  };
  std::vector<Item> items;
};

// Shapes and dtypes of a carry, for the receiver to make room.
struct CarrySpec {
  struct Item {
    std::string name;
    DType dtype;
    Shape shape;
  };
  std::vector<Item> items;
};

// When the gradients of the weights are computed.
enum class WeightGradients {
  kWithInput,  // block by block with the input's gradient: no saved output gradients
  kLater,      // by a BackwardWeight of its own (zero-bubble schedules)
};

// One stage of a pipeline: consecutive blocks of the model on one logical rank (and its tensor
// group). Microbatch ids are global; each goes Forward, BackwardInput, BackwardWeight, once.
class StageModel {
 public:
  virtual ~StageModel() = default;

  // What Forward expects (empty at the first stage) and what it returns (empty at the last).
  virtual CarrySpec InputSpec() const = 0;
  virtual CarrySpec OutputSpec() const = 0;

  // The last stage keeps the loss of the microbatch for the step's report.
  virtual Carry Forward(MicrobatchId microbatch, const Carry& input) = 0;
  // output_gradient: by the names and shapes of OutputSpec; empty at the last stage. Returns the
  // gradient of the input; empty at the first stage.
  virtual Carry BackwardInput(MicrobatchId microbatch, const Carry& output_gradient,
                              WeightGradients when) = 0;
  // Only after BackwardInput with kLater.
  virtual void BackwardWeight(MicrobatchId microbatch) = 0;

  // Ends a microbatch that will see no (further) backward: after a forward of validation, and when
  // a step is given up. What was kept for it is free.
  virtual void Forget(MicrobatchId microbatch) {}

  // Not ok once communication of the model's own (its tensor group's) has failed: what it returned
  // since is worthless. The executor asks after every pass.
  virtual Status status() const { return OkStatus(); }

  // Microbatches that may be between Forward and the end of their backward at once: the executor
  // asks for the schedule's peak before the first step so that activations are allocated once.
  virtual void Reserve(int live_microbatches) = 0;
};

}  // namespace trireme
