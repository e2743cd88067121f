// Attention as a graph of cuDNN's operations, in the patterns that the library fuses: flash
// attention forward, and backward with the scores computed again.
#pragma once

#include <compare>
#include <optional>

#include "worker/kernels/attention.h"
#include "worker/kernels/attention_parts.h"
#include "worker/kernels/cudnn_plan.h"

namespace trireme::cudnn {

// Everything that a plan depends on; the key of the plans that are kept.
struct AttentionProblem {
  int64_t batch, length, query_heads, key_heads, head_dim;
  // Elements between tokens.
  int64_t q_stride = 0, k_stride = 0, v_stride = 0, out_stride = 0;
  // Of the gradients; zeros in the forward pass.
  int64_t dout_stride = 0, dq_stride = 0, dk_stride = 0, dv_stride = 0;
  bool documents = false;

  bool backward() const { return dout_stride != 0; }
  auto operator<=>(const AttentionProblem&) const = default;
};

// Names of what is passed when a plan runs.
enum AttentionOperand : int64_t {
  kQ = 1,
  kK,
  kV,
  kOut,
  kLogSumExp,       // [B, Hq, T] f32
  kDocumentStarts,  // [B, T] i32
  kScale,           // a float of the host
  kMinusInfinity,   // a float of the host
  kOne,             // a float of the host, backward alone
  kDOut,
  kDQ,
  kDK,
  kDV,
  kDelta,  // [B, Hq, T] f32, scratch
  kDQSum,  // [B, Hq, T, D] f32, scratch; not for deterministic plans
};

// The forward call as a problem; nothing where cuDNN is not asked: element types but bf16, head
// dims that are no multiple of 8, rows that are not 16-byte aligned, shapes that do not fit each
// other (the own kernel tells which).
std::optional<AttentionProblem> ForwardProblem(const Heads& q, const Heads& k, const Heads& v,
                                               const Tensor& document_starts, const Heads& out);
std::optional<AttentionProblem> BackwardProblem(const Heads& dout, const Heads& q, const Heads& k,
                                                const Heads& v, const Heads& out,
                                                const Tensor& document_starts, const Heads& dq,
                                                const Heads& dk, const Heads& dv);

// The problem of a part, wherever in the whole it lies.
AttentionProblem PartOf(const AttentionProblem& whole, const AttentionPart& part);

// What the library would run the problem with on a device. kNotFound where it has no way.
// deterministic: the backward graph that sums dQ in a fixed order.
Result<Proposals> ProposeAttention(const Api& api, const Descriptor& device,
                                   const AttentionProblem& problem, bool deterministic);

}  // namespace trireme::cudnn
