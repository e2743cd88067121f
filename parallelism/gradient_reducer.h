// GradientReducer: accumulates the gradients of a rank's microbatches leaf by leaf, and reduces
// them over the data axis while the backward pass goes on.
#pragma once

#include <memory>
#include <vector>

#include "cluster/comm/communicator.h"
#include "cluster/device/buffer.h"
#include "cluster/device/graph.h"
#include "cluster/device/stream.h"
#include "parallelism/leaf_plan.h"
#include "parallelism/parameter_layout.h"
#include "parallelism/phase_hook.h"
#include "parallelism/process_groups.h"

namespace trireme {

// Sums in a fixed order: microbatches of a leaf in ascending id into one f32 accumulator; leaves in
// SumTree's order; then ranks of the tensor axis that share a piece, in rank order; then the roles
// of a tied tensor, in role order. See docs/parallelism.md.
class GradientReducer {
 public:
  // References outlive the object. Creates groups of its own in `groups`: all ranks construct it at
  // the same point.
  GradientReducer(const std::vector<ParameterSpec>& specs, const ParameterLayout& layout,
                  const LeafPlan& plan, int zero_level, ProcessGroups* groups, Stream* stream,
                  PhaseHook phase);
  ~GradientReducer();

  void BeginStep();
  // Until it is called with null, a step is recorded: its reductions run, and the stream follows
  // them, when it is replayed.
  void RecordTo(Recording* recording) { recording_ = recording; }
  // Where gradients are accumulated: what a recording of them depends on.
  const void* address() const { return accumulators_[0]->data(); }
  GradientSink Sink(int entry, MicrobatchId microbatch);
  // After the last microbatch of the last entry of a bucket its reduction starts, in the order of
  // buckets on all ranks.
  void Done(int entry, MicrobatchId microbatch);
  Status Finish(Micros timeout);
  void Abandon();

  // After Finish: the whole sum of a parameter's gradient; valid in the rows this rank updates.
  const float* Reduced(const LocalParameter& local) const;
  int64_t bytes() const;

 private:
  // Sums of small sets of ranks after the data reduction: shared pieces, tied tensors.
  struct Exchange {
    const char* what;
    Communicator* group;
    SumTree tree;
    // own[k]: for each local parameter, the entries that make up this rank's k-th partial.
    struct Part {
      int local;
      std::vector<std::vector<int>> own;
    };
    std::vector<Part> parts;
    // The parameters one after the other, once for each partial of this rank; made when needed,
    // shared with abandoned operations.
    std::shared_ptr<Buffer> packed;
  };

  void MakeReplicaExchanges(const std::vector<ParameterSpec>& specs);
  void MakeRoleExchanges(const std::vector<ParameterSpec>& specs);
  void StartReadyBuckets();
  void StartReduction(const GradientBucket& bucket);
  Work Reduce(const GradientBucket& bucket);
  Status CheckComplete() const;
  Status FinishBuckets(Stream* follower, Micros timeout);
  Status RunExchange(Exchange& exchange, Micros timeout);
  Status SumPacked(Exchange& exchange, Stream* follower, Micros timeout);
  int64_t PackedElements(const Exchange& exchange) const;
  Stream* follower() const { return recording_ == nullptr ? nullptr : stream_; }
  void AddLocalRoles();
  float* Accumulator(int slot) const;
  float* Updated(const LocalParameter& local, int entry) const;

  const std::vector<ParameterSpec>& specs_;
  const ParameterLayout& layout_;
  const LeafPlan& plan_;
  const int zero_level_;
  ProcessGroups* groups_;
  Stream* stream_;
  PhaseHook phase_;
  Recording* recording_ = nullptr;

  std::vector<std::shared_ptr<Buffer>> accumulators_;  // shared with abandoned operations
  std::vector<Exchange> exchanges_;
  // The state of a step.
  std::vector<int> turn_;          // by entry: microbatches that are done
  std::vector<bool> open_;         // by entry: between Sink and Done
  std::vector<int> entries_left_;  // by bucket
  size_t next_bucket_ = 0;
  std::vector<Work> works_;
};

}  // namespace trireme
