#include "worker/model/feed_forward.h"

#include "worker/kernels/activation.h"

namespace trireme {

FeedForward::FeedForward(BlockContext* context, int64_t width, const FeedForwardParameters& ids,
                         Linear::Layout layout)
    : context_(context),
      width_(width),
      gated_(ids.gate >= 0),
      gate_(context, ids.gate, ids.gate_bias, layout),
      up_(context, ids.up, ids.up_bias, layout),
      down_(context, ids.down, ids.down_bias, layout) {}

FeedForward::Saved FeedForward::Allocate(Arena& arena, int64_t tokens) const {
  Saved saved;
  if (gated_) saved.gate = arena.Allocate(context_->compute, {tokens, width_});
  saved.up = arena.Allocate(context_->compute, {tokens, width_});
  return saved;
}

Tensor FeedForward::AllocateActivated(Arena& arena, int64_t tokens) const {
  return arena.Allocate(context_->compute, {tokens, width_});
}

void FeedForward::Activate(const Saved& saved, const Tensor& activated) const {
  if (gated_) {
    SwiGluForward(*context_->stream, saved.gate, saved.up, activated);
  } else {
    GeluForward(*context_->stream, saved.up, activated);
  }
}

void FeedForward::ForwardIn(const Tensor& x, const Saved& saved, const Tensor& activated) const {
  if (!gated_) return up_.ForwardGelu(Matrix::Of(x), saved.up, activated);
  gate_.Forward(Matrix::Of(x), Matrix::Of(saved.gate));
  up_.Forward(Matrix::Of(x), Matrix::Of(saved.up));
  Activate(saved, activated);
}

void FeedForward::ForwardOut(const Tensor& activated, const Tensor& y) const {
  down_.ForwardPartial(Matrix::Of(activated), Matrix::Of(y));
  context_->tensor.Sum(y);
}

void FeedForward::Backward(const Tensor& dy, const Tensor& x, const Saved& saved,
                           const Tensor& activated, const Tensor& dactivated, const Saved& dsaved,
                           const Tensor& dx, MicrobatchId microbatch, WeightWork* work) const {
  if (gated_) {
    down_.BackwardInput(Matrix::Of(dy), Matrix::Of(dactivated), false);
  } else {
    down_.BackwardInputGelu(Matrix::Of(dy), saved.up, dactivated);
  }
  work->Add(down_, Matrix::Of(dy), Matrix::Of(activated), microbatch);
  const Tensor dup = gated_ ? dsaved.up : dactivated;
  if (gated_) {
    SwiGluBackward(*context_->stream, dactivated, saved.gate, saved.up, dsaved.gate, dup);
    gate_.BackwardInput(Matrix::Of(dsaved.gate), Matrix::Of(dx), false);
  }
  up_.BackwardInput(Matrix::Of(dup), Matrix::Of(dx), gated_);
  context_->tensor.StartSum(dx);
  if (gated_) work->Add(gate_, Matrix::Of(dsaved.gate), Matrix::Of(x), microbatch);
  work->Add(up_, Matrix::Of(dup), Matrix::Of(x), microbatch);
  context_->tensor.FinishSum();
}

}  // namespace trireme
