#include "worker/kernels/attention.h"
#include "worker/kernels/attention_tile.h"
#include "worker/kernels/cuda_kernels.h"

namespace trireme {
namespace {

struct Gradients {
  const Heads &dout, &q, &k, &v, &out, &dq, &dk, &dv;
};

// All of one key head: packed operands, sums over its query heads, and strips.
template <typename T>
struct Scratch {
  T *k, *k_transposed, *v_transposed;  // [T, D], [D, T], [D, T]
  T *q, *dout;                         // [rows, D], heads of the block below each other
  float *dk, *dv;                      // [T, D]
  float* dq;                           // [rows, D]
  float *scores, *dp;                  // [rows, stride]
  T *p, *ds;                           // [rows, stride]; scores and dp themselves in f32
  int64_t stride, key_stride;

  Scratch(int64_t length, int64_t d, int64_t rows) {
    thread_local ThreadScratch scratch;
    CHECK_LE(rows, kRowsMax);
    stride = PaddedStride(std::min(length, kStripKeys));
    key_stride = PaddedStride(length);
    constexpr bool kRounds = !std::is_same_v<T, float>;
    scratch.Reset(
        ThreadScratch::Bytes<T>(length * d) + 2 * ThreadScratch::Bytes<T>(key_stride * d) +
        2 * ThreadScratch::Bytes<T>(rows * d) + 2 * ThreadScratch::Bytes<float>(length * d) +
        ThreadScratch::Bytes<float>(rows * d) + 2 * ThreadScratch::Bytes<float>(rows * stride) +
        2 * kRounds * ThreadScratch::Bytes<T>(rows * stride));
    k = scratch.Take<T>(length * d);
    for (T** piece : {&k_transposed, &v_transposed}) *piece = scratch.Take<T>(key_stride * d);
    for (T** piece : {&q, &dout}) *piece = scratch.Take<T>(rows * d);
    for (float** piece : {&dk, &dv}) *piece = scratch.Take<float>(length * d);
    dq = scratch.Take<float>(rows * d);
    for (float** piece : {&scores, &dp}) *piece = scratch.Take<float>(rows * stride);
    if constexpr (kRounds) {
      for (T** piece : {&p, &ds}) *piece = scratch.Take<T>(rows * stride);
    } else {
      p = scores;
      ds = dp;
    }
  }
};

// p, then ds = p (dp - delta) scale, both zero outside the visible range.
template <typename T>
void GradientRow(const QueryBlock& block, int64_t row, int64_t key, int64_t keys, float log_sum_exp,
                 float delta, const Scratch<T>& s) {
  const Range range = Visible(block, row, key, keys);
  const int64_t at = row * s.stride;
  Zero(s.p + at, 0, range.low);
  Zero(s.ds + at, 0, range.low);
  const Vec scale = Broadcast(block.scale), shift = Broadcast(-log_sum_exp);
  ForLanes(range.high - range.low, [&](int64_t i, auto count) {
    const int64_t c = at + range.low + i;
    const Vec p = Exp(Fma(Load(s.scores + c, count), scale, shift));
    const Vec ds = p * ((Load(s.dp + c, count) - delta) * scale);
    Store(s.p + c, p, count);
    Store(s.ds + c, ds, count);
  });
  Zero(s.p + at, range.high, keys);
  Zero(s.ds + at, range.high, keys);
}

template <typename T>
void BackwardStrip(const QueryBlock& block, int64_t d, int64_t key, int64_t keys, bool first,
                   const float* log_sum_exp, const float* delta, const Scratch<T>& s) {
  const int64_t rows = block.rows();
  const Tile q = TileOf(s.q, d), dout = TileOf(s.dout, d);
  TileProduct(q, false, TileOf(s.k_transposed + key, s.key_stride), s.scores, s.stride, rows, keys,
              d, false);
  TileProduct(dout, false, TileOf(s.v_transposed + key, s.key_stride), s.dp, s.stride, rows, keys,
              d, false);
  for (int64_t row = 0; row < rows; ++row) {
    GradientRow(block, row, key, keys, log_sum_exp[row], delta[row], s);
  }
  const Tile p = TileOf(s.p, s.stride), ds = TileOf(s.ds, s.stride);
  TileProduct(p, true, dout, s.dv + key * d, d, keys, d, rows, true);
  TileProduct(ds, true, q, s.dk + key * d, d, keys, d, rows, true);
  TileProduct(ds, false, TileOf(s.k + key * d, d), s.dq, d, rows, d, keys, !first);
}

template <typename T>
void BackwardBlock(const QueryBlock& block, const Gradients& g, const float* saved,
                   const Scratch<T>& s) {
  const int64_t d = g.q.head_dim, rows = block.rows(), length = g.q.length;
  float delta[kRowsMax], log_sum_exp[kRowsMax];
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t t = block.Token(row), h = block.Head(row);
    const T* dout = HeadRow<T>(g.dout, block.b, t, h);
    const T* out = HeadRow<T>(g.out, block.b, t, h);
    std::memcpy(s.q + row * d, HeadRow<T>(g.q, block.b, t, h), d * sizeof(T));
    std::memcpy(s.dout + row * d, dout, d * sizeof(T));
    Vec sum{};
    ForLanes(d, [&](int64_t i, auto count) {
      sum = Fma(Load(dout + i, count), Load(out + i, count), sum);
    });
    delta[row] = Sum(sum);
    log_sum_exp[row] = saved[(block.b * g.q.heads + h) * length + t];
  }
  const int64_t first = block.FirstKey(), end = block.EndKey();
  for (int64_t key = first; key < end; key += kStripKeys) {
    BackwardStrip(block, d, key, std::min(kStripKeys, end - key), key == first, log_sum_exp, delta,
                  s);
  }
  for (int64_t row = 0; row < rows; ++row) {
    T* dq = HeadRow<T>(g.dq, block.b, block.Token(row), block.Head(row));
    ForLanes(d,
             [&](int64_t i, auto count) { Store(dq + i, Load(s.dq + row * d + i, count), count); });
  }
}

// Everything of one key head: its query heads in ascending order, blocks of tokens in ascending
// order, so that dk and dv are summed in one order.
template <typename T>
void BackwardKeyHead(const Gradients& g, int64_t b, int64_t key_head, const float* saved,
                     float scale, const int32_t* starts) {
  const int64_t length = g.q.length, d = g.q.head_dim, group = g.q.heads / g.k.heads;
  const int64_t tokens = BlockTokens(group, g.q.dtype);
  const Scratch<T> s(length, d, std::min(group, kHeadsMax) * tokens);
  const T *k = HeadRow<T>(g.k, b, 0, key_head), *v = HeadRow<T>(g.v, b, 0, key_head);
  CopyRows(k, g.k.row_stride, length, d, s.k, d);
  TransposeRows(k, g.k.row_stride, length, d, s.k_transposed, s.key_stride);
  TransposeRows(v, g.v.row_stride, length, d, s.v_transposed, s.key_stride);
  Zero(s.dk, 0, length * d);
  Zero(s.dv, 0, length * d);
  for (int64_t head = 0; head < group; head += kHeadsMax) {
    for (int64_t begin = 0; begin < length; begin += tokens) {
      const QueryBlock block{b,
                             key_head * group + head,
                             std::min(kHeadsMax, group - head),
                             begin,
                             std::min(tokens, length - begin),
                             0,
                             scale,
                             starts};
      BackwardBlock(block, g, saved, s);
    }
  }
  for (int64_t t = 0; t < length; ++t) {
    T *dk = HeadRow<T>(g.dk, b, t, key_head), *dv = HeadRow<T>(g.dv, b, t, key_head);
    ForLanes(d, [&](int64_t i, auto count) {
      Store(dk + i, Load(s.dk + t * d + i, count), count);
      Store(dv + i, Load(s.dv + t * d + i, count), count);
    });
  }
}

}  // namespace

void AttentionBackward(Stream& stream, const Heads& dout, const Heads& q, const Heads& k,
                       const Heads& v, const Heads& out, const Tensor& log_sum_exp, float scale,
                       const Tensor& document_starts, const Heads& dq, const Heads& dk,
                       const Heads& dv) {
  CheckQueriesAndKeys(q, k, v);
  for (const Heads* heads : {&dout, &out, &dq}) CheckSameHeads(q, *heads, "query heads");
  for (const Heads* heads : {&dk, &dv}) CheckSameHeads(k, *heads, "key heads");
  CHECK_EQ(q.length, k.length);
  CHECK_EQ(log_sum_exp.elements(), q.batch * q.heads * q.length);
  if (stream.OnGpu("AttentionBackward")) {
    if (cuda::FusedAttentionBackward(stream, dout, q, k, v, out, log_sum_exp, scale,
                                     document_starts, dq, dk, dv))
      return;
    return cuda::AttentionBackward(stream, dout, q, k, v, out, log_sum_exp, scale, document_starts,
                                   dq, dk, dv);
  }
  const int32_t* starts = DocumentStarts(document_starts, q);
  const float* saved = log_sum_exp.as<float>();
  const Gradients gradients{dout, q, k, v, out, dq, dk, dv};
  WithFloatType(q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    stream.ParallelFor(k.batch * k.heads, [&](int64_t task) {
      const int64_t b = task / k.heads;
      BackwardKeyHead<T>(gradients, b, task % k.heads, saved, scale,
                         starts == nullptr ? nullptr : starts + b * q.length);
    });
  });
}

}  // namespace trireme
