// The feed-forward half of a decoder layer: SwiGLU (llama) or GELU (gpt2).
#pragma once

#include "worker/model/block.h"

namespace trireme {

struct FeedForwardParameters {
  ParamId gate = -1, gate_bias = -1;  // SwiGLU alone
  ParamId up = -1, up_bias = -1;
  ParamId down = -1, down_bias = -1;
};

class FeedForward {
 public:
  // width: this rank's share of the intermediate size.
  FeedForward(BlockContext* context, int64_t width, const FeedForwardParameters& ids,
              Linear::Layout layout);

  struct Saved {
    Tensor gate;  // [N, F / ranks]; undefined for GELU
    Tensor up;
  };
  Saved Allocate(Arena& arena, int64_t tokens) const;
  // Memory of the activated hidden values, which a recompute rebuilds from `Saved`.
  Tensor AllocateActivated(Arena& arena, int64_t tokens) const;
  void Activate(const Saved& saved, const Tensor& activated) const;

  // Fills `saved` and `activated`.
  void ForwardIn(const Tensor& x, const Saved& saved, const Tensor& activated) const;
  // y: as AttentionBlock::Forward's.
  void ForwardOut(const Tensor& activated, const Tensor& y) const;
  // dactivated, dsaved: room for gradients; dsaved may be `saved` itself, and is not used for GELU.
  // dx: [N, H] f32, summed over the tensor group; also the compute dtype, where there is no group
  // and no gate.
  void Backward(const Tensor& dy, const Tensor& x, const Saved& saved, const Tensor& activated,
                const Tensor& dactivated, const Saved& dsaved, const Tensor& dx,
                MicrobatchId microbatch, WeightWork* work) const;

  // SwiGLU: two products of the input.
  bool gated() const { return gated_; }

 private:
  BlockContext* context_;
  int64_t width_;
  bool gated_;
  Linear gate_, up_, down_;
};

}  // namespace trireme
