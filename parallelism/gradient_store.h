// ShardedParameterStore: weights, gradients and optimizer state of one rank under data parallelism
// (ZeRO level 0 or 1), tensor and pipeline parallelism; the reductions of a step and the norm.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cluster/comm/communicator.h"
#include "cluster/device/stream.h"
#include "parallelism/gradient_reducer.h"
#include "parallelism/leaf_plan.h"
#include "parallelism/norm_range.h"
#include "parallelism/parameter_layout.h"
#include "parallelism/parameters.h"
#include "parallelism/phase_hook.h"
#include "parallelism/process_groups.h"
#include "parallelism/state_slots.h"

namespace trireme {

struct StoreOptions {
  int zero_level = 0;  // 1: masters and moments only of the rows that this rank owns
  WeightTypes types;
  int microbatches = 1;  // m: of the global batch
  int leaves = 1;        // G: batch.sum_leaves
  int64_t bucket_bytes = kBucketBytes;
  PhaseHook phase;
};

// What an optimizer works on: n elements. Committed values are read, next ones written.
struct UpdateSlice {
  ParamId id;
  const float* gradient;
  const float *p, *m, *v;
  float *p_next, *m_next, *v_next;
  BFloat16* p_compute;  // the bf16 copy of p_next; null when the model computes in f32
  // Of a parameter without f32 masters, else null: its committed values. Its next ones go to
  // p_compute; p and p_next are null.
  const BFloat16* p_rounded;
  int64_t n;
  int64_t first_element;  // see FirstElements
  bool decay;
};
// Called once a step with all slices; element-wise work only.
using UpdateFunction = std::function<void(std::span<const UpdateSlice>)>;
// Sums the squares of each range, in a fixed order. `ranges`: memory of the device.
using SumsOfSquaresFunction = std::function<void(const NormRange* ranges, int64_t count)>;

// Enqueues what makes the norm of a table of sums on the device: the root of the sum of all rows,
// row i being entries row_ends[i - 1] .. row_ends[i] - 1, each row summed first, in order. Memory
// of the device.
using FinishNormFunction =
    std::function<void(const double* table, const int64_t* row_ends, int64_t rows)>;

// A piece of state that goes into a checkpoint or comes from one.
struct StateTensor {
  enum class Kind : uint8_t { kWeight, kFirstMoment, kSecondMoment };
  Kind kind;
  ParamId id;
  std::string name;  // the parameter's, with "optimizer.m." or "optimizer.v." before it
  Shape shape;       // global
  Box box;           // of it
  Tensor tensor;     // values of the box, on the store's device: f32, or bf16 without masters
};

// A step: BeginStep; Gradients and GradientDone by the model, for each microbatch of
// microbatches() ascending, every parameter and role of this stage once; FinishReduction;
// GlobalNorm; Update; Commit. All ranks of the mesh call FinishReduction, GlobalNorm and Update in
// this order. Any failure: AbandonStep on this rank; committed values are untouched, and the
// groups' generation is over. One thread calls an object.
class ShardedParameterStore final : public ParameterStore {
 public:
  // specs: every parameter of the model, the same on all ranks; a ParamId is its index. Names are
  // unique. `groups` and `stream` outlive the store. Weights and moments start as zeros.
  ShardedParameterStore(std::vector<ParameterSpec> specs, ProcessGroups* groups, Stream* stream,
                        StoreOptions options);
  ~ShardedParameterStore() override;

  Tensor Acquire(ParamId id) override;
  void Release(ParamId id) override {}
  GradientSink Gradients(ParamId id, int role, MicrobatchId microbatch) override;
  void GradientDone(ParamId id, int role, MicrobatchId microbatch) override;

  const std::vector<ParameterSpec>& specs() const { return specs_; }
  const ParameterLayout& layout() const { return layout_; }
  // Ids that this data rank computes, ascending.
  const std::vector<MicrobatchId>& microbatches() const { return plan_.microbatches(); }
  int64_t committed_step() const { return slots_.Committed().step; }

  void BeginStep();
  // Until it is called with null, a step's calls belong to a recording of the stream: operations
  // run, and the stream follows them, when it is replayed.
  void RecordTo(Recording* recording) {
    recording_ = recording;
    reducer_.RecordTo(recording);
  }
  // The committed state and the accumulators: a recording is of use as long as they are the same.
  std::vector<const void*> Addresses() const;
  // Waits for the buckets that started during the backward pass, adds replicas and tied roles.
  // kInternal when the model has not written every gradient.
  Status FinishReduction(Micros timeout);
  // Square root of the sum of squares of all gradients of the model: equal bits on all ranks, for
  // every data width, ZeRO level and pipeline degree.
  Result<double> GlobalNorm(const SumsOfSquaresFunction& sums_of_squares, Micros timeout);
  // The same on a GPU, without a copy to the host: the bits of GlobalNorm.
  Status EnqueueNorm(const SumsOfSquaresFunction& sums_of_squares, const FinishNormFunction& finish,
                     Micros timeout);
  // Writes the next state and, with ZeRO, gathers the new weights.
  Status Update(const UpdateFunction& update, Micros timeout);
  void Commit(int64_t step);
  void Discard();
  // Abandons every reduction in flight and forgets the step.
  void AbandonStep();

  // The committed state: boxes of which each is written by exactly one rank of the world.
  std::vector<StateTensor> StateToSave() const;
  // Boxes that this rank must be given, in the committed state. The caller fills the tensors (from
  // a checkpoint, or initial weights and zeros), then all ranks call FinishLoad.
  std::vector<StateTensor> StateToLoad();
  // Casts and gathers what the model computes with.
  Status FinishLoad(int64_t step, Micros timeout);

  // What is committed and equal on all ranks of the data axis: weights, and at ZeRO 0 masters and
  // moments.
  std::vector<Tensor> Replicated();

  // The reduced gradient of the rows that this rank updates, between FinishReduction and BeginStep:
  // for tests, and for the gradients of fixtures.
  Tensor ReducedGradient(ParamId id) const;
  // Bytes of weights, state and accumulators.
  int64_t memory_bytes() const;

 private:
  int LocalOf(ParamId id) const;
  UpdateSlice SliceOf(const LocalParameter& local);
  std::vector<StateTensor> StateOf(const LocalParameter& local, RowRange rows, bool moments) const;
  Status GatherWeights(StateSlot& slot, Stream* follower, Micros timeout);
  Status GatherNormTable(Stream* follower, Micros timeout);
  Stream* follower() const { return recording_ == nullptr ? nullptr : stream_; }
  void MakeNormTable();
  void MakeNormRanges();
  const double* FillNormTable(const SumsOfSquaresFunction& sums_of_squares);

  std::vector<ParameterSpec> specs_;
  ProcessGroups* groups_;
  Stream* stream_;
  StoreOptions options_;
  LeafPlan plan_;
  ParameterLayout layout_;
  std::vector<int64_t> first_elements_;
  StateSlots slots_;
  GradientReducer reducer_;
  Recording* recording_ = nullptr;

  // Row blocks of every tensor of the model in name order; this rank fills its own.
  struct NormRow {
    int64_t first;  // index in the table
    int64_t count;
  };
  std::vector<NormRow> norm_rows_;  // by position in name order
  struct NormBlocks {
    int local;
    int64_t first;               // index in the table of the first own block
    std::vector<int64_t> edges;  // elements of the local region
  };
  std::vector<NormBlocks> norm_blocks_;
  Buffer norm_ranges_;                    // NormRange of each own block, on the stream's device
  const void* norm_ranges_of_ = nullptr;  // the accumulators that they point at
  int64_t norm_table_size_ = 0;
  Buffer norm_row_ends_;  // i64, there too
  Buffer norm_table_;     // f64 on the stream's device; what is not this rank's stays zero
  // On GPUs that share a model: all ranks, for memory of the device, and their tables' sum.
  Communicator* norm_group_ = nullptr;
  Buffer norm_sum_;
};

}  // namespace trireme
