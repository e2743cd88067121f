// LeafPlan: which accumulator a microbatch's gradients go to, and which additions follow, so that a
// rank's leaves are summed as the tree over all leaves sums them ("leaf first", docs: order of
// sums).
#pragma once

#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/comm/sum_tree.h"
#include "parallelism/parameters.h"

namespace trireme {

// Whether a step of so many microbatches can be split into these leaves over this width. Errors say
// which number of run.yaml does not fit.
Status CheckSumLeaves(int microbatches, int leaves, int data_width);

// The plan of one data rank. Microbatches of a step have ids 0 .. m-1; leaf l is the m / G ids from
// l m / G; the rank holds the leaves that SumTree::Even deals it.
class LeafPlan {
 public:
  // CHECKs what CheckSumLeaves checks.
  LeafPlan(int microbatches, int leaves, int data_width, int data_index);

  const SumTree& tree() const { return tree_; }
  // This rank's, ascending.
  const std::vector<MicrobatchId>& microbatches() const { return microbatches_; }
  // Accumulators that are needed at once; about log2 of the rank's leaves, plus one.
  int accumulators() const { return accumulators_; }
  // What is left at the end in accumulators 0 .. partials-1: SumTree::Partials, in order.
  int partials() const { return partials_; }

  // What happens to the i-th microbatch of this rank.
  struct Turn {
    int accumulator;
    bool first;  // of its leaf: overwrites
    int merges;  // after it: so many times, the top accumulator is added to the one below it
  };
  const Turn& turn(int i) const { return turns_[i]; }

 private:
  SumTree tree_;
  std::vector<MicrobatchId> microbatches_;
  std::vector<Turn> turns_;
  int accumulators_ = 0;
  int partials_ = 0;
};

}  // namespace trireme
