// A pre-norm decoder layer: x += Attention(Norm(x)); x += FeedForward(Norm(x)).
#pragma once

#include "worker/model/attention_block.h"
#include "worker/model/feed_forward.h"
#include "worker/model/norm_block.h"

namespace trireme {

// What is kept between forward and backward: everything; all but what norms and activations give
// (cheap to redo); or the layer's input alone. Korthikanti et al. 2022, arXiv:2205.05198.
enum class Recompute { kNone, kSelective, kFull };

class DecoderLayer {
 public:
  // `layer` counts from 0 over the whole model.
  DecoderLayer(BlockContext* context, const ModelShape& shape,
               const std::vector<ParameterSpec>& specs, int64_t layer, const RotaryTable* rotary,
               Recompute recompute);

  struct Saved {
    Tensor x_in;   // [N, H]: the residual stream at the layer's input
    Tensor x_mid;  // after attention
    NormStatistics norm1, norm2;
    Tensor normed1, normed2;
    AttentionBlock::Saved attention;
    FeedForward::Saved feed_forward;
    Tensor activated;
  };
  // Memory that a microbatch keeps for this layer: with recompute some fields stay undefined.
  Saved Allocate(Arena& arena, TokenShape tokens) const;
  // The undefined fields of `saved`, allocated: what a pass needs at hand.
  Saved Complete(const Saved& saved, Arena& arena, TokenShape tokens) const;
  // Bytes of scratch that Forward or Backward (not deferred), or deferred memory that one Backward
  // keeps.
  int64_t ScratchBytes(TokenShape tokens, bool deferred) const;

  // The residual stream comes in as x + delta (has_delta) or x and leaves as x_mid + delta; x_mid
  // is returned: saved memory, or `stream` ([N, H]) under full recompute. delta: [N, H]
  // DeltaDType().
  Tensor Forward(TokenShape tokens, const TokenPlaces& places, const Tensor& x, bool has_delta,
                 const Tensor& delta, const Tensor& stream, Saved* saved) const;
  // dx: gradient of the layer's output, [N, H] compute dtype. Returns that of its input: dx itself,
  // or memory of `keep` when weight gradients are deferred. delta: scratch as in Forward.
  // keep: the scratch arena, or where deferred work finds its operands.
  Tensor Backward(TokenShape tokens, const TokenPlaces& places, const Tensor& dx,
                  const Saved& saved, const Tensor& delta, Arena& keep, MicrobatchId microbatch,
                  WeightWork* work) const;

  // One or more new tokens over a cache, no backward. x: [N, H], updated in place.
  void Decode(TokenShape tokens, const TokenPlaces& places, const Tensor& x,
              const KeyValueCache& cache, const Tensor& lengths) const;

  const AttentionBlock& attention() const { return attention_; }
  DType DeltaDType() const {
    return context_->tensor.size() == 1 ? context_->compute : DType::kF32;
  }

 private:
  struct Gradients {
    Tensor norm;  // [N, H] NormGradientDType(): of a norm's output
    Tensor mixed, qkv, activated;
    FeedForward::Saved feed_forward;
    Tensor x_mid, x_in;  // deferred alone
  };
  // f32 where it is a sum, of several products or ranks; on a GPU else the compute dtype.
  DType NormGradientDType() const;
  Gradients AllocateGradients(Arena& arena, TokenShape tokens, bool deferred) const;
  void Rebuild(TokenShape tokens, const TokenPlaces& places, const Tensor& delta,
               const Saved& full) const;

  BlockContext* context_;
  int64_t hidden_;
  Recompute recompute_;
  NormBlock norm1_, norm2_;
  AttentionBlock attention_;
  FeedForward feed_forward_;
};

}  // namespace trireme
