// The loss of a step, summed in the order of microbatches whatever the layout.
#pragma once

#include <cstdint>
#include <span>

#include "cluster/comm/communicator.h"
#include "parallelism/parameters.h"

namespace trireme {

// One microbatch: the sum of its label tokens' losses (not the mean), and how many they are.
struct MicrobatchLoss {
  MicrobatchId microbatch;
  double loss_sum;
  int64_t label_tokens;
};

struct BatchLoss {
  double loss_sum = 0;
  int64_t label_tokens = 0;
  double Mean() const { return loss_sum / static_cast<double>(label_tokens); }
};

// Gathers the losses of microbatches 0 .. microbatches-1 and folds them in ascending id: equal bits
// on all ranks and layouts. Called by every rank of `world` (null: this rank is alone); exactly one
// of them brings each microbatch, the others bring none (only last stages, tensor index 0).
// kInternal when a microbatch came from no rank or from several.
Result<BatchLoss> SumLosses(Communicator* world, int microbatches,
                            std::span<const MicrobatchLoss> own, Micros timeout);

}  // namespace trireme
