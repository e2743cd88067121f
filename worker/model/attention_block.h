// Causal grouped-query self-attention between its input norm and the residual add.
#pragma once

#include <memory>

#include "worker/kernels/attention.h"
#include "worker/model/block.h"
#include "worker/model/model_shape.h"

namespace trireme {

// Where the tokens of a microbatch stand. [B, T] i32 each.
struct TokenPlaces {
  Tensor positions;        // for rotary and learned positions
  Tensor document_starts;  // undefined: one document a sequence
};

// cos and sin of position * inv_freq, [P, D / 2] f32, computed in double.
class RotaryTable {
 public:
  // On the stream's device; complete when the constructor returns.
  RotaryTable(const ModelShape& shape, int64_t positions, Stream* stream);
  const Tensor& cosines() const { return cosines_; }
  const Tensor& sines() const { return sines_; }

 private:
  Buffer memory_;
  Tensor cosines_, sines_;
};

// Keys and values of the positions seen so far. [B, capacity, Hk, D] each, compute dtype.
struct KeyValueCache {
  Tensor keys;
  Tensor values;
};

// Names of the parameters in a layer. qkv: the fused form (GPT-2), or q, k, v; -1 where absent.
struct AttentionParameters {
  ParamId qkv = -1, qkv_bias = -1;
  ParamId q = -1, k = -1, v = -1, o = -1;
  ParamId q_bias = -1, k_bias = -1, v_bias = -1, o_bias = -1;
};

class AttentionBlock {
 public:
  // rotary: null for learned positions. Outlives the block.
  AttentionBlock(BlockContext* context, const ModelShape& shape, const AttentionParameters& ids,
                 Linear::Layout layout, const RotaryTable* rotary);

  struct Saved {
    Tensor qkv;          // [N, (Hq + 2 Hk) D] of this rank's heads, rotated
    Tensor mixed;        // [N, Hq D]: attention's output
    Tensor log_sum_exp;  // [B, Hq, T] f32
  };
  Saved Allocate(Arena& arena, TokenShape tokens) const;

  // Fills `saved` and writes this rank's addend of the output to `y` ([N, H]; f32 when the tensor
  // group has several ranks, and then already summed).
  void Forward(TokenShape tokens, const TokenPlaces& places, const Tensor& x, const Saved& saved,
               const Tensor& y) const;
  // dy: [N, H] compute dtype. dx: [N, H] f32, summed over the tensor group; also the compute dtype,
  // where there is no group and is_fused(). dqkv: scratch or kept memory like saved.qkv, for
  // deferred weight gradients.
  void Backward(TokenShape tokens, const TokenPlaces& places, const Tensor& dy, const Tensor& x,
                const Saved& saved, const Tensor& dmixed, const Tensor& dqkv, const Tensor& dx,
                MicrobatchId microbatch, WeightWork* work) const;
  // T new tokens a sequence at the end of a cache. lengths: [B] i32, filled lengths with the new
  // tokens; `places.positions` says where they stand. y as in Forward.
  void Decode(TokenShape tokens, const TokenPlaces& places, const Tensor& x,
              const KeyValueCache& cache, const Tensor& lengths, const Tensor& y) const;

  int64_t query_heads() const { return query_heads_; }
  int64_t kv_heads() const { return kv_heads_; }

  // One product makes queries, keys and values.
  bool is_fused() const { return in_.size() == 1; }

 private:
  Heads HeadsOf(const Tensor& qkv, TokenShape tokens, int part) const;
  void ProjectIn(const Tensor& x, const Tensor& qkv) const;
  void ProjectOut(const Tensor& mixed, const Tensor& y) const;
  void Rotate(const Tensor& qkv, TokenShape tokens, const TokenPlaces& places, bool inverse) const;
  int64_t width(int part) const { return (part == 0 ? query_heads_ : kv_heads_) * head_dim_; }

  BlockContext* context_;
  int64_t query_heads_, kv_heads_, head_dim_;  // of this rank
  float scale_;
  const RotaryTable* rotary_;
  // One fused input projection, or three that write to consecutive columns.
  std::vector<Linear> in_;
  Linear out_;
};

}  // namespace trireme
