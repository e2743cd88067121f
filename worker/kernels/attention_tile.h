// Inside of the attention kernels: views of one head, scratch memory, packed keys, strips of
// scores, and products of tiles.
#pragma once

#include <algorithm>
#include <limits>

#include "worker/kernels/attention.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gemm.h"
#include "worker/kernels/scratch.h"
#include "worker/kernels/transpose.h"
#include "worker/kernels/vector.h"

namespace trireme {

// Keys meet queries in strips of at most kStripKeys keys: one product for the scores, one for the
// values. Strips start at multiples of kKeyAlign, so that documents do not make every strip
// another shape.
inline constexpr int64_t kStripKeys = 512;
inline constexpr int64_t kKeyAlign = 64;
inline constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Rows of one head of one sequence.
template <typename T>
T* HeadRow(const Heads& heads, int64_t b, int64_t t, int64_t h) {
  return static_cast<T*>(heads.data) + (b * heads.length + t) * heads.row_stride +
         h * heads.head_dim;
}

// Elements from row to row of a tile that is read again and again: whole vectors, and one cache
// line more, so that rows do not meet in the caches.
inline int64_t PaddedStride(int64_t columns) { return CeilDivide(columns, 16) * 16 + 16; }

// A row-major tile: rows at data + r * stride.
struct Tile {
  const void* data;
  DType dtype;
  int64_t stride;
};
template <typename T>
Tile TileOf(const T* data, int64_t stride) {
  return {data, DTypeOf<T>::value, stride};
}

// c[m, n] f32 = op(a)[m, k] b[k, n] (+ c).
inline void TileProduct(const Tile& a, bool transpose_a, const Tile& b, float* c, int64_t c_stride,
                        int64_t m, int64_t n, int64_t k, bool accumulate) {
  GemmCall call;
  call.a = a.data;
  call.b = b.data;
  call.c = c;
  call.m = m;
  call.n = n;
  call.k = k;
  call.lda = a.stride;
  call.ldb = b.stride;
  call.ldc = c_stride;
  call.input = a.dtype;
  call.transpose_a = transpose_a;
  call.accumulate = accumulate;
  Gemm(call);
}

// Query heads that share a key head go through a strip together: row r of a strip is token
// begin + r % tokens of head first_head + r / tokens.
struct QueryBlock {
  int64_t b, first_head, heads;
  int64_t begin, tokens;  // rows of q
  int64_t offset;         // position of q's row 0 among the keys
  float scale;
  const int32_t* starts;  // of this sequence's documents by position, or null

  int64_t rows() const { return heads * tokens; }
  int64_t Token(int64_t row) const { return begin + row % tokens; }
  int64_t Head(int64_t row) const { return first_head + row / tokens; }
  int64_t Start(int64_t position) const { return starts == nullptr ? 0 : starts[position]; }
  int64_t EndKey() const { return offset + begin + tokens; }
  // The first key that any row sees, rounded down.
  int64_t FirstKey() const {
    int64_t first = offset + begin;
    for (int64_t t = begin; t < begin + tokens; ++t) first = std::min(first, Start(offset + t));
    return first / kKeyAlign * kKeyAlign;
  }
};

// Query heads of a block, and its tokens: rows enough for fast products of tiles (bf16 wants more),
// few tokens where many heads share keys, since a block's tokens waste half a square of scores.
inline constexpr int64_t kHeadsMax = 8;
inline int64_t BlockTokens(int64_t group, DType dtype) {
  if (dtype == DType::kBF16) return group >= 8 ? 16 : group >= 4 ? 32 : 64;
  return group >= 4 ? 16 : group >= 2 ? 32 : 64;
}
inline constexpr int64_t kRowsMax = 224;  // the most of heads times tokens

// Visible columns [low, high) of a row in the strip of keys [key, key + keys).
struct Range {
  int64_t low, high;
};
inline Range Visible(const QueryBlock& block, int64_t row, int64_t key, int64_t keys) {
  const int64_t position = block.offset + block.Token(row);
  const int64_t high = std::clamp<int64_t>(position + 1 - key, 0, keys);
  return {std::clamp<int64_t>(block.Start(position) - key, 0, high), high};
}

template <typename T>
void Zero(T* row, int64_t begin, int64_t end) {
  if (begin < end) std::fill(row + begin, row + end, T{});
}

inline float RowMaximum(const float* row, const Range& range) {
  Vec top = Broadcast(kMinusInfinity);
  ForLanes(range.high - range.low, [&](int64_t i, auto count) {
    top = Maximum(KeepLanes(Load(row + range.low + i, count), count, kMinusInfinity), top);
  });
  return Maximum(top);
}

// p[s] = exp(scale * score[s] - shift) over the range, zeros around it; returns their sum. p may be
// the scores.
template <typename T>
float RowExponentials(const float* scores, T* p, const Range& range, int64_t keys, float scale,
                      float shift) {
  Zero(p, 0, range.low);
  Vec sum{};
  const Vec scales = Broadcast(scale), shifts = Broadcast(-shift);
  ForLanes(range.high - range.low, [&](int64_t i, auto count) {
    const Vec score = Load(scores + range.low + i, count);
    const Vec e = KeepLanes(Exp(Fma(score, scales, shifts)), count, 0.0f);
    sum += e;
    Store(p + range.low + i, e, count);
  });
  Zero(p, range.high, keys);
  return Sum(sum);
}

template <typename T>
void CopyRows(const T* in, int64_t in_stride, int64_t rows, int64_t columns, T* out,
              int64_t out_stride) {
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(out + r * out_stride, in + r * in_stride, columns * sizeof(T));
  }
}

inline void CheckSameHeads(const Heads& a, const Heads& b, const char* name) {
  CHECK(a.dtype == b.dtype) << name << ": " << DTypeName(a.dtype);
  CHECK(a.batch == b.batch && a.length == b.length && a.heads == b.heads &&
        a.head_dim == b.head_dim)
      << name << ": another shape";
}

// Queries and keys of one call. Lengths may differ.
inline void CheckQueriesAndKeys(const Heads& q, const Heads& k, const Heads& v) {
  CheckSameHeads(k, v, "v");
  CHECK(q.dtype == k.dtype) << DTypeName(q.dtype) << " and " << DTypeName(k.dtype);
  CHECK(q.batch == k.batch && q.head_dim == k.head_dim) << "queries and keys differ";
  CHECK(k.heads > 0 && q.heads % k.heads == 0) << q.heads << " query heads, " << k.heads;
}

inline const int32_t* DocumentStarts(const Tensor& starts, const Heads& q) {
  if (!starts.defined()) return nullptr;
  CHECK_EQ(starts.elements(), q.batch * q.length);
  return starts.as<int32_t>();
}

}  // namespace trireme
