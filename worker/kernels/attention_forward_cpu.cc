#include <cmath>

#include "worker/kernels/attention.h"
#include "worker/kernels/attention_forward.h"
#include "worker/kernels/attention_tile.h"
#include "worker/kernels/cuda_kernels.h"

namespace trireme {
namespace {

// Keys transposed and values, a head after the other: strides of the model's fused buffers are
// often powers of two, which a tile's rows must not be apart.
template <typename T>
struct PackedKeys {
  T *keys, *values;  // [B, Hk, D, stride] and [B, Hk, length, D]
  int64_t length, stride;

  T* Keys(int64_t head, int64_t d) const { return keys + head * d * stride; }
  T* Values(int64_t head, int64_t d) const { return values + head * d * length; }
};

template <typename T>
PackedKeys<T> Pack(Stream& stream, const Heads& k, const Heads& v, const int32_t* lengths) {
  thread_local ThreadScratch scratch;
  int64_t length = k.length;
  if (lengths != nullptr) length = *std::max_element(lengths, lengths + k.batch);
  const int64_t heads = k.batch * k.heads, d = k.head_dim;
  PackedKeys<T> packed;
  packed.length = length;
  packed.stride = PaddedStride(length);
  scratch.Reset(ThreadScratch::Bytes<T>(heads * packed.stride * d) +
                ThreadScratch::Bytes<T>(heads * length * d));
  packed.keys = scratch.Take<T>(heads * packed.stride * d);
  packed.values = scratch.Take<T>(heads * length * d);
  stream.ParallelFor(heads, [&](int64_t head) {
    const int64_t b = head / k.heads, h = head % k.heads;
    const int64_t filled = lengths == nullptr ? length : lengths[b];
    TransposeRows(HeadRow<T>(k, b, 0, h), k.row_stride, filled, d, packed.Keys(head, d),
                  packed.stride);
    CopyRows(HeadRow<T>(v, b, 0, h), v.row_stride, filled, d, packed.Values(head, d), d);
  });
  return packed;
}

// One block's strips, and its running softmax.
template <typename T>
struct BlockScratch {
  float* scores;  // [rows, stride]
  T* p;           // [rows, stride]; the scores themselves in f32
  float* sums;    // [rows, D] of p v
  int64_t stride;
  float top[kRowsMax];  // largest scaled score so far
  float sum[kRowsMax];  // of exp(scaled score - top)

  BlockScratch(int64_t rows, int64_t d, int64_t keys_max) {
    thread_local ThreadScratch scratch;
    CHECK_LE(rows, kRowsMax);
    stride = PaddedStride(std::min(keys_max, kStripKeys));
    constexpr bool kRounds = !std::is_same_v<T, float>;
    scratch.Reset(ThreadScratch::Bytes<float>(rows * stride) +
                  ThreadScratch::Bytes<float>(rows * d) +
                  kRounds * ThreadScratch::Bytes<T>(rows * stride));
    scores = scratch.Take<float>(rows * stride);
    sums = scratch.Take<float>(rows * d);
    if constexpr (kRounds) {
      p = scratch.Take<T>(rows * stride);
    } else {
      p = scores;
    }
    std::fill(top, top + rows, kMinusInfinity);
    std::fill(sum, sum + rows, 0.0f);
  }
};

// Scores of the strip become exponentials under the new maximum; what was summed is rescaled.
template <typename T>
void SoftmaxRow(const QueryBlock& block, int64_t row, int64_t key, int64_t keys, int64_t d,
                BlockScratch<T>& s) {
  const Range range = Visible(block, row, key, keys);
  float* scores = s.scores + row * s.stride;
  // scale > 0, so the largest scaled score is the scaled largest score.
  const float before = s.top[row];
  const float here =
      range.low < range.high ? RowMaximum(scores, range) * block.scale : kMinusInfinity;
  const float top = here > before ? here : before;
  const float sum = RowExponentials(scores, s.p + row * s.stride, range, keys, block.scale,
                                    top == kMinusInfinity ? 0.0f : top);
  if (before == kMinusInfinity) {
    s.sum[row] = sum;  // the products below it are zeros
  } else {
    const float keep = Exp(Broadcast(before - top))[0];
    s.sum[row] = s.sum[row] * keep + sum;
    float* sums = s.sums + row * d;
    ForLanes(d,
             [&](int64_t i, auto count) { Store(sums + i, Load(sums + i, count) * keep, count); });
  }
  s.top[row] = top;
}

template <typename T>
void ForwardStrip(const QueryBlock& block, const Heads& q, const PackedKeys<T>& packed,
                  int64_t key_head, int64_t key, int64_t keys, bool first, BlockScratch<T>& s) {
  const int64_t d = q.head_dim;
  const Tile k = TileOf(packed.Keys(key_head, d) + key, packed.stride);
  for (int64_t h = 0; h < block.heads; ++h) {
    const Tile queries =
        TileOf(HeadRow<T>(q, block.b, block.begin, block.first_head + h), q.row_stride);
    TileProduct(queries, false, k, s.scores + h * block.tokens * s.stride, s.stride, block.tokens,
                keys, d, false);
  }
  for (int64_t row = 0; row < block.rows(); ++row) SoftmaxRow(block, row, key, keys, d, s);
  TileProduct(TileOf(s.p, s.stride), false, TileOf(packed.Values(key_head, d) + key * d, d), s.sums,
              d, block.rows(), d, keys, !first);
}

template <typename T>
void ForwardBlock(const QueryBlock& block, const Heads& q, const PackedKeys<T>& packed,
                  int64_t key_head, const Heads& out, float* log_sum_exp) {
  const int64_t d = q.head_dim, first = block.FirstKey(), end = block.EndKey();
  BlockScratch<T> s(block.rows(), d, packed.length);
  for (int64_t key = first; key < end; key += kStripKeys) {
    ForwardStrip(block, q, packed, key_head, key, std::min(kStripKeys, end - key), key == first, s);
  }
  for (int64_t row = 0; row < block.rows(); ++row) {
    T* to = HeadRow<T>(out, block.b, block.Token(row), block.Head(row));
    const float inverse = 1.0f / s.sum[row];
    ForLanes(d, [&](int64_t i, auto count) {
      Store(to + i, Load(s.sums + row * d + i, count) * inverse, count);
    });
    if (log_sum_exp == nullptr) continue;
    log_sum_exp[(block.b * q.heads + block.Head(row)) * q.length + block.Token(row)] =
        s.top[row] + std::log(s.sum[row]);
  }
}

}  // namespace

void AttentionBlocks(Stream& stream, const Heads& q, const Heads& k, const Heads& v, float scale,
                     const int32_t* lengths, const int32_t* starts, const Heads& out,
                     float* log_sum_exp) {
  const int64_t group = q.heads / k.heads, tokens = BlockTokens(group, q.dtype);
  const int64_t parts = CeilDivide(group, kHeadsMax), blocks = CeilDivide(q.length, tokens);
  const int64_t tasks = q.batch * k.heads * parts;  // of one block of tokens
  WithFloatType(q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const PackedKeys<T> packed = Pack<T>(stream, k, v, lengths);
    stream.ParallelFor(tasks * blocks, [&](int64_t task) {
      // The longest blocks first: the tail of the call is short.
      const int64_t begin = (blocks - 1 - task / tasks) * tokens, part = task % parts;
      const int64_t key_head = task % tasks / parts, b = key_head / k.heads;
      QueryBlock block;
      block.b = b;
      block.first_head = key_head % k.heads * group + part * kHeadsMax;
      block.heads = std::min(kHeadsMax, group - part * kHeadsMax);
      block.begin = begin;
      block.tokens = std::min(tokens, q.length - begin);
      block.offset = lengths == nullptr ? 0 : lengths[b] - q.length;
      block.scale = scale;
      block.starts = starts == nullptr ? nullptr : starts + b * q.length;
      ForwardBlock<T>(block, q, packed, key_head, out, log_sum_exp);
    });
  });
}

void AttentionForward(Stream& stream, const Heads& q, const Heads& k, const Heads& v, float scale,
                      const Tensor& document_starts, const Heads& out, const Tensor& log_sum_exp) {
  CheckQueriesAndKeys(q, k, v);
  CheckSameHeads(q, out, "out");
  CHECK_EQ(q.length, k.length);
  CHECK_GT(scale, 0);
  CHECK_EQ(log_sum_exp.elements(), q.batch * q.heads * q.length);
  if (stream.OnGpu("AttentionForward")) {
    if (cuda::FusedAttentionForward(stream, q, k, v, scale, document_starts, out, log_sum_exp))
      return;
    return cuda::AttentionForward(stream, q, k, v, scale, document_starts, out, log_sum_exp);
  }
  AttentionBlocks(stream, q, k, v, scale, nullptr, DocumentStarts(document_starts, q), out,
                  log_sum_exp.as<float>());
}

}  // namespace trireme
