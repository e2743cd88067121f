// DecoderStage: consecutive layers of a causal decoder, with the embedding at the first stage and
// norm, head and loss at the last. Llama and GPT-2 are this with their own blocks.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "parallelism/stage_model.h"
#include "worker/model/decoder_blocks.h"

namespace trireme {

// One microbatch of training data. [B, T] i32 tensors; labels[b, t] belongs to the logits of (b,
// t), kNoLabel where there is none. Valid until the next step.
struct Microbatch {
  Tensor ids;
  Tensor labels;
  TokenPlaces places;
  double gradient_scale = 1;  // 1 / label tokens of the global batch
};
using MicrobatchSource = std::function<const Microbatch&(MicrobatchId)>;

struct StageOptions {
  ModelShape shape;
  Mesh mesh;
  int rank = 0;  // logical
  TokenShape tokens{1, 1};
  DType compute = DType::kF32;
  Recompute recompute = Recompute::kNone;
  std::optional<DeviceKind> device;  // that memory is planned for; the stream's if not given
};

// Bytes of a stage beside parameters, from the code that allocates them.
struct StageMemory {
  int64_t per_live_microbatch;
  int64_t scratch;
  int64_t deferred_per_microbatch;  // when weight gradients come later
};

class DecoderStage final : public StageModel {
 public:
  // `specs`: ParameterSpecs() of the shape for the mesh. All pointers outlive the stage.
  DecoderStage(const StageOptions& options, const std::vector<ParameterSpec>& specs, Stream* stream,
               ParameterStore* parameters, TensorGroup tensor, MicrobatchSource source);
  ~DecoderStage() override;

  CarrySpec InputSpec() const override;
  CarrySpec OutputSpec() const override;
  Carry Forward(MicrobatchId microbatch, const Carry& input) override;
  Carry BackwardInput(MicrobatchId microbatch, const Carry& output_gradient,
                      WeightGradients when) override;
  void BackwardWeight(MicrobatchId microbatch) override;
  void Forget(MicrobatchId microbatch) override;
  Status status() const override { return context_.tensor.status(); }
  void Reserve(int live_microbatches) override;

  // With evaluation on, Forward keeps nothing for a backward pass.
  void set_evaluation(bool on) { evaluation_ = on; }
  // So many microbatches' losses stay on the device until TakeLosses; with more the host waits in
  // between. Before the first pass.
  void ReserveLosses(int microbatches);
  // For passes that are recorded: see TensorGroup::RecordTo.
  void RecordTo(Recording* recording) { context_.tensor.RecordTo(recording, context_.stream); }
  // The microbatches whose losses were to be written since TakeLosses, in the order of their
  // passes: a recording's, which nothing has been written of yet, or a step's that is given up.
  std::vector<MicrobatchId> ForgetLosses() { return std::exchange(microbatch_of_parts_, {}); }
  // Instead of passes: a recording whose losses were these is about to be replayed, right after
  // TakeLosses.
  void FillByReplay(const std::vector<MicrobatchId>& losses) { microbatch_of_parts_ = losses; }
  // Gives up what is in flight, once a replay has failed.
  void Abandon() { context_.tensor.Abandon(); }
  // Losses summed over label tokens, by microbatch, since the last call. Last stage alone.
  std::map<MicrobatchId, double> TakeLosses();
  StageMemory Memory() const;

 private:
  struct Slot;
  bool first() const { return options_.mesh.Index(options_.rank, Axis::kPipeline) == 0; }
  bool last() const;
  void Allocate(Arena& arena, Slot* slot) const;
  Slot& SlotOf(MicrobatchId microbatch);
  Slot& FreeSlot(MicrobatchId microbatch);
  void ForwardHead(const Microbatch& data, const Tensor& x, bool has_delta, Slot* slot);
  double* LossPartsOf(MicrobatchId microbatch);
  void ReadLosses();

  StageOptions options_;
  BlockContext context_;
  MicrobatchSource source_;
  DecoderBlocks blocks_;
  Buffer running_memory_;
  Tensor delta_;    // [N, H]: what a half layer adds to the residual stream
  Tensor running_;  // [N, H]: the residual stream under full recompute
  std::vector<std::unique_ptr<Slot>> slots_;
  std::map<MicrobatchId, double> losses_;  // read already
  int losses_on_device_ = 64;
  Buffer loss_parts_;  // f64 [losses_on_device_, parts] of those in microbatch_of_parts_
  std::vector<MicrobatchId> microbatch_of_parts_;
  bool evaluation_ = false;
};

}  // namespace trireme
