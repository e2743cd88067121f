// Rotary positions and blocked causal grouped-query attention: memory linear in the length.
// B sequences, T positions, Hq query heads, Hk key/value heads, D head dim.
#pragma once

#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"

namespace trireme {

// Heads inside a larger row-major matrix: element (b, t, h, d) is at
// data + (b * T + t) * row_stride + h * D + d. Lets q, k, v live in one fused buffer.
struct Heads {
  void* data;
  DType dtype;
  int64_t batch, length, heads, head_dim;
  int64_t row_stride;  // elements between tokens
};

// Rotates halves in place: for i < R/2, x_i cos - x_(i+R/2) sin and x_(i+R/2) cos + x_i sin, with
// R = cosines.dim(1) * 2 rotary dims, the rest of D passes. inverse: rotates back (the backward).
// positions: [B, T] i32, rows of cosines and sines [P, R/2] f32.
// Su et al. 2021, arXiv:2104.09864.
void RotaryInPlace(Stream& stream, const Heads& x, const Tensor& positions, const Tensor& cosines,
                   const Tensor& sines, bool inverse);

// out = softmax(q k^T * scale) v over keys s <= t of the same document.
//
// q: Hq heads; k, v: Hk heads; query head h uses key head h / (Hq / Hk). out: Hq heads.
// document_starts: [B, T] i32, the first position of t's document; undefined: 0 everywhere.
// log_sum_exp: [B, Hq, T] f32, saved for the backward pass. Softmax and sums in f32 in a fixed
// block order. Dao 2023, arXiv:2307.08691, algorithm 1.
void AttentionForward(Stream& stream, const Heads& q, const Heads& k, const Heads& v, float scale,
                      const Tensor& document_starts, const Heads& out, const Tensor& log_sum_exp);
// dq, dk, dv are overwritten. Arithmetic as algorithm 2 of the same paper.
void AttentionBackward(Stream& stream, const Heads& dout, const Heads& q, const Heads& k,
                       const Heads& v, const Heads& out, const Tensor& log_sum_exp, float scale,
                       const Tensor& document_starts, const Heads& dq, const Heads& dk,
                       const Heads& dv);

// cache[b, lengths[b] - T + t] = x[b, t]: new keys or values where AttentionDecode finds them.
// x: [B, T, Hk, D]. cache: batch B, length = capacity, Hk heads, the same dtype. lengths: [B] i32,
// the filled lengths with the new tokens.
void AppendToCache(Stream& stream, const Heads& x, const Tensor& lengths, const Heads& cache);

// Attention of a few new queries over a cache: query t of sequence b stands at position
// lengths[b] - T + t and sees cache positions 0 .. lengths[b] - T + t.
// q, out: [B, T, Hq, D]. keys, values: batch B, length = capacity, Hk heads. lengths: [B] i32, the
// cache's filled length including the new tokens.
void AttentionDecode(Stream& stream, const Heads& q, const Heads& keys, const Heads& values,
                     const Tensor& lengths, float scale, const Heads& out);

}  // namespace trireme
