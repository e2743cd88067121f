#include "worker/model/decoder_layer.h"

#include <algorithm>

#include "worker/kernels/activation.h"

namespace trireme {
namespace {

std::string LayerName(const ModelShape& shape, int64_t layer) {
  const char* stem = shape.family == ModelFamily::kGpt2 ? "transformer.h." : "model.layers.";
  return stem + std::to_string(layer) + ".";
}

Linear::Layout LayoutOf(const ModelShape& shape) {
  return shape.family == ModelFamily::kGpt2 ? Linear::Layout::kInOut : Linear::Layout::kOutIn;
}

NormBlock MakeNorm(BlockContext* context, const ModelShape& shape,
                   const std::vector<ParameterSpec>& specs, const std::string& name) {
  const NormKind kind = shape.family == ModelFamily::kGpt2 ? NormKind::kLayer : NormKind::kRms;
  return NormBlock(context, kind, shape.norm_eps, FindParameter(specs, name + ".weight"),
                   FindParameter(specs, name + ".bias"));
}

AttentionParameters FindAttention(const ModelShape& shape, const std::vector<ParameterSpec>& specs,
                                  const std::string& at) {
  AttentionParameters ids;
  const auto find = [&](const std::string& name) { return FindParameter(specs, at + name); };
  if (shape.family == ModelFamily::kGpt2) {
    ids.qkv = find("attn.c_attn.weight");
    ids.qkv_bias = find("attn.c_attn.bias");
    ids.o = find("attn.c_proj.weight");
    ids.o_bias = find("attn.c_proj.bias");
    return ids;
  }
  ids.q = find("self_attn.q_proj.weight");
  ids.k = find("self_attn.k_proj.weight");
  ids.v = find("self_attn.v_proj.weight");
  ids.o = find("self_attn.o_proj.weight");
  ids.q_bias = find("self_attn.q_proj.bias");
  ids.k_bias = find("self_attn.k_proj.bias");
  ids.v_bias = find("self_attn.v_proj.bias");
  ids.o_bias = find("self_attn.o_proj.bias");
  return ids;
}

FeedForwardParameters FindFeedForward(const ModelShape& shape,
                                      const std::vector<ParameterSpec>& specs,
                                      const std::string& at) {
  FeedForwardParameters ids;
  const auto find = [&](const std::string& name) { return FindParameter(specs, at + name); };
  if (shape.family == ModelFamily::kGpt2) {
    ids.up = find("mlp.c_fc.weight");
    ids.up_bias = find("mlp.c_fc.bias");
    ids.down = find("mlp.c_proj.weight");
    ids.down_bias = find("mlp.c_proj.bias");
    return ids;
  }
  ids.gate = find("mlp.gate_proj.weight");
  ids.gate_bias = find("mlp.gate_proj.bias");
  ids.up = find("mlp.up_proj.weight");
  ids.up_bias = find("mlp.up_proj.bias");
  ids.down = find("mlp.down_proj.weight");
  ids.down_bias = find("mlp.down_proj.bias");
  return ids;
}

// This rank's share of the intermediate size, cut as the parameters are.
int64_t FeedForwardWidth(const ModelShape& shape, const TensorGroup& group) {
  const int64_t f = shape.intermediate_size, n = group.size(), r = group.rank();
  return f * (r + 1) / n - f * r / n;
}

}  // namespace

DecoderLayer::DecoderLayer(BlockContext* context, const ModelShape& shape,
                           const std::vector<ParameterSpec>& specs, int64_t layer,
                           const RotaryTable* rotary, Recompute recompute)
    : context_(context),
      hidden_(shape.hidden_size),
      recompute_(recompute),
      norm1_(MakeNorm(context, shape, specs,
                      LayerName(shape, layer) +
                          (shape.family == ModelFamily::kGpt2 ? "ln_1" : "input_layernorm"))),
      norm2_(
          MakeNorm(context, shape, specs,
                   LayerName(shape, layer) +
                       (shape.family == ModelFamily::kGpt2 ? "ln_2" : "post_attention_layernorm"))),
      attention_(context, shape, FindAttention(shape, specs, LayerName(shape, layer)),
                 LayoutOf(shape), rotary),
      feed_forward_(context, FeedForwardWidth(shape, context->tensor),
                    FindFeedForward(shape, specs, LayerName(shape, layer)), LayoutOf(shape)) {}

DecoderLayer::Saved DecoderLayer::Allocate(Arena& arena, TokenShape tokens) const {
  Saved saved;
  const int64_t n = tokens.tokens();
  saved.x_in = arena.Allocate(context_->compute, {n, hidden_});
  if (recompute_ == Recompute::kFull) return saved;
  saved.x_mid = arena.Allocate(context_->compute, {n, hidden_});
  saved.norm1 = norm1_.AllocateStatistics(arena, n);
  saved.norm2 = norm2_.AllocateStatistics(arena, n);
  saved.attention = attention_.Allocate(arena, tokens);
  saved.feed_forward = feed_forward_.Allocate(arena, n);
  if (recompute_ == Recompute::kSelective) return saved;
  saved.normed1 = arena.Allocate(context_->compute, {n, hidden_});
  saved.normed2 = arena.Allocate(context_->compute, {n, hidden_});
  saved.activated = feed_forward_.AllocateActivated(arena, n);
  return saved;
}

DecoderLayer::Saved DecoderLayer::Complete(const Saved& saved, Arena& arena,
                                           TokenShape tokens) const {
  Saved full = saved;
  const int64_t n = tokens.tokens();
  if (recompute_ == Recompute::kNone) return full;
  full.normed1 = arena.Allocate(context_->compute, {n, hidden_});
  full.normed2 = arena.Allocate(context_->compute, {n, hidden_});
  full.activated = feed_forward_.AllocateActivated(arena, n);
  if (recompute_ == Recompute::kSelective) return full;
  full.x_mid = arena.Allocate(context_->compute, {n, hidden_});
  full.norm1 = norm1_.AllocateStatistics(arena, n);
  full.norm2 = norm2_.AllocateStatistics(arena, n);
  full.attention = attention_.Allocate(arena, tokens);
  full.feed_forward = feed_forward_.Allocate(arena, n);
  return full;
}

DType DecoderLayer::NormGradientDType() const {
  const bool is_sum =
      context_->tensor.size() > 1 || feed_forward_.gated() || !attention_.is_fused();
  return is_sum || context_->device == DeviceKind::kCpu ? DType::kF32 : context_->compute;
}

DecoderLayer::Gradients DecoderLayer::AllocateGradients(Arena& arena, TokenShape tokens,
                                                        bool deferred) const {
  Gradients g;
  const int64_t n = tokens.tokens();
  g.norm = arena.Allocate(NormGradientDType(), {n, hidden_});
  const AttentionBlock::Saved attention = attention_.Allocate(arena, tokens);
  g.mixed = attention.mixed;
  g.qkv = attention.qkv;
  g.activated = feed_forward_.AllocateActivated(arena, n);
  if (deferred) {
    g.feed_forward = feed_forward_.Allocate(arena, n);
    g.x_mid = arena.Allocate(context_->compute, {n, hidden_});
    g.x_in = arena.Allocate(context_->compute, {n, hidden_});
  }
  return g;
}

int64_t DecoderLayer::ScratchBytes(TokenShape tokens, bool deferred) const {
  Arena kept = Arena::Measuring(), extra = Arena::Measuring();
  const Saved saved = Allocate(kept, tokens);
  Complete(saved, extra, tokens);
  AllocateGradients(extra, tokens, deferred);
  return extra.used_bytes_max();
}

Tensor DecoderLayer::Forward(TokenShape tokens, const TokenPlaces& places, const Tensor& x,
                             bool has_delta, const Tensor& delta, const Tensor& stream,
                             Saved* saved) const {
  const int64_t mark = context_->scratch.Mark();
  if (!has_delta) saved->x_in = x;
  Saved full = Complete(*saved, context_->scratch, tokens);
  if (recompute_ == Recompute::kFull) full.x_mid = stream;
  norm1_.Forward(x, has_delta ? delta : Tensor(), full.x_in, full.normed1, full.norm1);
  attention_.Forward(tokens, places, full.normed1, full.attention, delta);
  norm2_.Forward(full.x_in, delta, full.x_mid, full.normed2, full.norm2);
  feed_forward_.ForwardIn(full.normed2, full.feed_forward, full.activated);
  feed_forward_.ForwardOut(full.activated, delta);
  context_->scratch.Release(mark);
  return full.x_mid;
}

void DecoderLayer::Rebuild(TokenShape tokens, const TokenPlaces& places, const Tensor& delta,
                           const Saved& full) const {
  if (recompute_ == Recompute::kNone) return;
  norm1_.Forward(full.x_in, Tensor(), Tensor(), full.normed1, full.norm1);
  if (recompute_ == Recompute::kSelective) {
    norm2_.Forward(full.x_mid, Tensor(), Tensor(), full.normed2, full.norm2);
    feed_forward_.Activate(full.feed_forward, full.activated);
    return;
  }
  attention_.Forward(tokens, places, full.normed1, full.attention, delta);
  norm2_.Forward(full.x_in, delta, full.x_mid, full.normed2, full.norm2);
  feed_forward_.ForwardIn(full.normed2, full.feed_forward, full.activated);
}

Tensor DecoderLayer::Backward(TokenShape tokens, const TokenPlaces& places, const Tensor& dx,
                              const Saved& saved, const Tensor& delta, Arena& keep,
                              MicrobatchId microbatch, WeightWork* work) const {
  const bool deferred = work->deferred();
  const int64_t mark = keep.Mark();
  const Saved full = Complete(saved, keep, tokens);
  Rebuild(tokens, places, delta, full);
  const Gradients g = AllocateGradients(keep, tokens, deferred);

  // In place where nothing later needs what is overwritten.
  feed_forward_.Backward(dx, full.normed2, full.feed_forward, full.activated, g.activated,
                         deferred ? g.feed_forward : full.feed_forward, g.norm, microbatch, work);
  const Tensor dx_mid = deferred ? g.x_mid : dx;
  norm2_.Backward(g.norm, full.x_mid, full.norm2, dx, dx_mid, microbatch);

  attention_.Backward(tokens, places, dx_mid, full.normed1, full.attention, g.mixed, g.qkv, g.norm,
                      microbatch, work);
  const Tensor dx_in = deferred ? g.x_in : dx_mid;
  norm1_.Backward(g.norm, full.x_in, full.norm1, dx_mid, dx_in, microbatch);
  if (!deferred) keep.Release(mark);
  return dx_in;
}

void DecoderLayer::Decode(TokenShape tokens, const TokenPlaces& places, const Tensor& x,
                          const KeyValueCache& cache, const Tensor& lengths) const {
  Arena& scratch = context_->scratch;
  const int64_t mark = scratch.Mark(), n = tokens.tokens();
  const Tensor normed = scratch.Allocate(context_->compute, {n, hidden_});
  const Tensor delta = scratch.Allocate(DeltaDType(), {n, hidden_});
  const NormStatistics statistics = norm1_.AllocateStatistics(scratch, n);
  norm1_.Forward(x, Tensor(), Tensor(), normed, statistics);
  attention_.Decode(tokens, places, normed, cache, lengths, delta);
  norm2_.Forward(x, delta, x, normed, statistics);
  const FeedForward::Saved hidden = feed_forward_.Allocate(scratch, n);
  const Tensor activated = feed_forward_.AllocateActivated(scratch, n);
  feed_forward_.ForwardIn(normed, hidden, activated);
  feed_forward_.ForwardOut(activated, delta);
  Add(*context_->stream, x, delta, x);
  scratch.Release(mark);
}

}  // namespace trireme
