// Pieces of the fused classifier: logits of a chunk of tokens exist in one scratch buffer, where
// the gradient replaces them. N tokens of the chunk.
//
// logits: [N, S] f32 or bf16, of which the first `width` columns are logits, of as many rows of the
// vocabulary from `first_row` on; the others hold anything.
#pragma once

#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"

namespace trireme {

// Label of a position that has none.
inline constexpr int32_t kNoLabel = -100;

// What each rank of the tensor group knows of a row; the group combines them (max, then rescaled
// sums), so the full row never exists anywhere.
// row_max: [N] f32, the largest local logit. row_sum: [N] f32, sum of exp(logit - row_max).
// target: [N] f32, the label's logit, 0 where the label is elsewhere or kNoLabel.
// labels: [N] i32, global ids.
void SoftmaxStatistics(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                       int64_t first_row, const Tensor& row_max, const Tensor& row_sum,
                       const Tensor& target);

// The statistics of the whole vocabulary from those of R ranks, in rank order.
// gathered: [R, 3, N] f32 (max, sum, target of each rank). row_max, row_sum, target: [N] f32.
void CombineSoftmaxStatistics(Stream& stream, const Tensor& gathered, const Tensor& row_max,
                              const Tensor& row_sum, const Tensor& target);

// losses[n] = log(row_sum) + row_max - target, 0 for kNoLabel, with the group's statistics. [N]
// f32.
void TokenLosses(Stream& stream, const Tensor& labels, const Tensor& row_max, const Tensor& row_sum,
                 const Tensor& target, const Tensor& losses);

// dlogits[n, v] = scale * (softmax(n, v) - [v is the label]), with the group's statistics; zeros in
// rows of kNoLabel and in the columns from `width` on. dlogits: [N, S] of the logits' dtype (may be
// the logits themselves), or bf16.
void SoftmaxGradient(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                     int64_t first_row, const Tensor& row_max, const Tensor& row_sum, float scale,
                     const Tensor& dlogits);

// All of the above in one pass for rows that are whole on this device, in place: row n of `logits`
// becomes scale * (softmax(n, v) - [v is the label]), zeros for kNoLabel, and losses[n] its loss.
// The columns from `width` on become zeros. S is a multiple of 16 bytes on a GPU. labels: [N] i32
// below `width`. losses: [N] f32.
void CrossEntropyInPlace(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                         float scale, const Tensor& losses);

// Sum of x[0 .. n) in f64, in a fixed order (of each device its own). x: f32. Blocks the host until
// the sum is there.
double SumF64(Stream& stream, const Tensor& x);
// The same on the stream's device, without waiting: sum[0].
void SumF64(Stream& stream, const Tensor& x, double* sum);

}  // namespace trireme
