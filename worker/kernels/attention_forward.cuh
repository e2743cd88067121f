// Attention forward and over a cache: tiles of queries meet tiles of keys in ascending order, the
// softmax runs along. f32 throughout. Dao 2023, arXiv:2307.08691, algorithm 1.
#pragma once

#include "worker/kernels/attention_tile.cuh"

namespace trireme::gpu {

// A tile has kQueries rows, keys come kKeys at a time. Threads stand in kQueries / kRows rows of
// kColumns: each has kRows x 4 scores, and kOutPacks packs of the output of its kRows rows.
template <int kHeadDim, int kQueryRows, int kKeyRows, int kThreadRows>
struct ForwardShape {
  static constexpr int kD = kHeadDim, kQueries = kQueryRows, kKeys = kKeyRows, kRows = kThreadRows;
  static constexpr int kPacks = kD / 4, kColumns = kKeys / 4, kOutPacks = kPacks / kColumns;
  static constexpr int kThreads = kQueries / kRows * kColumns;
  // Keys make room for the scores' exponentials.
  static constexpr int kKeyPacks =
      kKeys * kPacks > kQueries* kColumns ? kKeys* kPacks : kQueries* kColumns;
  static_assert(kThreads % kWarp == 0 && kWarp % kColumns == 0 && kOutPacks * kColumns == kPacks);
  static_assert(16 * (kQueries * kPacks + kKeyPacks + kKeys * kPacks) <= 48 * 1024);
  using QueryTile = TileLayout<kD, kRows == 4 ? 2 : kRows == 2 ? 1 : 0>;
  using KeyTile = TileLayout<kD, 2>;
};
// Prompts and training, and few new queries over a long cache, by head dim.
template <int kD>
struct ForwardShapes;
template <>
struct ForwardShapes<32> {
  using Training = ForwardShape<32, 64, 32, 4>;
  using Decode = ForwardShape<32, 16, 32, 1>;
};
template <>
struct ForwardShapes<64> {
  using Training = ForwardShape<64, 64, 64, 4>;
  using Decode = ForwardShape<64, 16, 64, 1>;
};
template <>
struct ForwardShapes<128> {
  using Training = ForwardShape<128, 32, 32, 2>;
  using Decode = ForwardShape<128, 16, 32, 1>;
};
template <>
struct ForwardShapes<256> {
  using Training = ForwardShape<256, 16, 16, 1>;
  using Decode = Training;
};

template <typename T>
struct ForwardArgs {
  HeadsOf<const T> q, k, v;
  HeadsOf<T> out;
  float* log_sum_exp;      // [B, Hq, T], or null
  const int32_t* starts;   // [B, T], or null
  const int32_t* lengths;  // [B]: queries are the last of so many keys; null: T keys
  float scale;
  int heads, group;  // Hq, and query heads a key head
  // Query heads of one tile: its rows are the tokens of one after the other.
  int tile_heads;
  // Where keys are split: keys of one split, and its part of the result.
  int split_keys, splits;
  float* partial_out;   // [B, Hq, T, splits, D] not divided
  float* partial_stat;  // [B, Hq, T, splits, 2]: maximum in units of log 2, sum
};

// Which token and head a row of the grid column is; token -1 for none.
struct QueryRow {
  int token, head;
};

template <typename T>
__device__ __forceinline__ QueryRow QueryRowOf(const ForwardArgs<T>& a, int row) {
  const int tokens = static_cast<int>(a.q.length);
  if (row >= tokens * a.tile_heads) return {-1, 0};
  return {row % tokens, static_cast<int>(blockIdx.y) * a.tile_heads + row / tokens};
}

// Keys [begin, end) that a row sees.
struct KeyRange {
  int begin, end;
};

template <typename T>
__device__ __forceinline__ KeyRange KeysOfRow(const ForwardArgs<T>& a, const QueryRow& row,
                                              int64_t b) {
  if (row.token < 0) return {0, 0};
  const int tokens = static_cast<int>(a.q.length);
  return {a.starts == nullptr ? 0 : a.starts[b * tokens + row.token],
          row.token + 1 + (a.lengths == nullptr ? 0 : a.lengths[b] - tokens)};
}

// Keys that some row of a tile sees, begin rounded down to a multiple of kKeys.
template <typename Shape, typename T>
__device__ __forceinline__ KeyRange KeysOfTile(const ForwardArgs<T>& a, int first_row, int64_t b) {
  const int tokens = static_cast<int>(a.q.length);
  KeyRange keys = {0, a.lengths == nullptr ? tokens : a.lengths[b]};
  if (a.tile_heads == 1) {
    keys.end -= tokens - min(first_row + Shape::kQueries, tokens);
    // Documents begin later and later: the first row's begins first.
    if (a.starts != nullptr) keys.begin = a.starts[b * tokens + first_row];
  }
  if (a.splits > 1) {
    const int split = static_cast<int>(blockIdx.x) % a.splits * a.split_keys;
    keys.begin = max(keys.begin, split);
    keys.end = min(keys.end, split + a.split_keys);
  }
  keys.begin = keys.begin / Shape::kKeys * Shape::kKeys;
  return keys;
}

// A thread's running softmax over its rows, shared by the threads of a row.
template <typename Shape>
struct RowsSoftmax {
  static constexpr int kRows = Shape::kRows;
  float top[kRows];  // of score * scale * log2(e)
  float sum[kRows];  // this thread's keys alone
  Pack<float> out[kRows][Shape::kOutPacks];

  __device__ __forceinline__ RowsSoftmax() {
    for (int i = 0; i < kRows; ++i) {
      top[i] = -INFINITY;
      sum[i] = 0;
      for (int j = 0; j < Shape::kOutPacks; ++j) out[i][j] = {};
    }
  }

  // Scores, -infinity where masked, become exponentials under the new maximum; what was summed is
  // rescaled.
  __device__ __forceinline__ void Add(float (&scores)[kRows][4]) {
    for (int i = 0; i < kRows; ++i) {
      float next = top[i];
      for (int j = 0; j < 4; ++j) next = fmaxf(next, scores[i][j]);
      for (int distance = Shape::kColumns / 2; distance > 0; distance /= 2) {
        next = fmaxf(next, __shfl_xor_sync(kFullWarp, next, distance));
      }
      const float shift = next == -INFINITY ? 0.0f : next;
      const float keep = exp2f(top[i] - shift);
      top[i] = next;
      sum[i] *= keep;
      for (int j = 0; j < 4; ++j) {
        scores[i][j] = exp2f(scores[i][j] - shift);
        sum[i] += scores[i][j];
      }
      for (int j = 0; j < Shape::kOutPacks; ++j) {
        for (int e = 0; e < 4; ++e) out[i][j][e] *= keep;
      }
    }
  }
  // The sum over all keys, in every thread of the row.
  __device__ __forceinline__ void Finish() {
    for (int i = 0; i < kRows; ++i) {
      for (int distance = Shape::kColumns / 2; distance > 0; distance /= 2) {
        sum[i] += __shfl_xor_sync(kFullWarp, sum[i], distance);
      }
    }
  }
};

// One split's part of a row goes to memory as it is.
template <typename Shape, typename T>
__device__ __forceinline__ void StorePartial(const ForwardArgs<T>& a, const QueryRow& row,
                                             int64_t b, float top, float sum,
                                             const Pack<float> (&out)[Shape::kOutPacks]) {
  const int column = threadIdx.x % Shape::kColumns;
  const int64_t index =
      ((b * a.heads + row.head) * a.q.length + row.token) * a.splits + blockIdx.x % a.splits;
  if (column == 0) {
    a.partial_stat[index * 2] = top;
    a.partial_stat[index * 2 + 1] = sum;
  }
  for (int j = 0; j < Shape::kOutPacks; ++j) {
    for (int e = 0; e < 4; ++e) {
      const int d = (column + j * Shape::kColumns) * 4 + e;
      if (d < a.q.head_dim) a.partial_out[index * a.q.head_dim + d] = out[j][e];
    }
  }
}

// As AttentionForward. Grid: (tiles of queries * splits, Hq / tile_heads, B); the tiles that see
// most keys start first.
template <typename Shape, typename T>
__global__ __launch_bounds__(Shape::kThreads) void AttentionForwardKernel(const ForwardArgs<T> a) {
  using QueryTile = typename Shape::QueryTile;
  using KeyTile = typename Shape::KeyTile;
  constexpr int kRows = Shape::kRows, kColumns = Shape::kColumns, kThreads = Shape::kThreads;
  TRIREME_SHARED_ARRAY(Pack<float>, query_tile, Shape::kQueries * Shape::kPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, key_tile, Shape::kKeyPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, value_tile, Shape::kKeys * Shape::kPacks);
  const int64_t b = blockIdx.z;
  const int64_t key_head = blockIdx.y * static_cast<int64_t>(a.tile_heads) / a.group;
  const int first_row = static_cast<int>(gridDim.x - 1 - blockIdx.x) / a.splits * Shape::kQueries;
  const int row0 = threadIdx.x / kColumns * kRows, column = threadIdx.x % kColumns;
  const float scale = a.scale * kLog2E;
  const int packs = (a.q.head_dim + 3) / 4;
  LoadTile<QueryTile, Shape::kQueries, kThreads>(query_tile, a.q, [&](int r) -> const T* {
    const QueryRow row = QueryRowOf(a, first_row + r);
    return row.token < 0 ? nullptr : a.q.Row(b, row.token, row.head);
  });
  KeyRange visible[kRows];
  for (int i = 0; i < kRows; ++i) {
    visible[i] = KeysOfRow(a, QueryRowOf(a, first_row + row0 + i), b);
  }
  RowsSoftmax<Shape> softmax;
  const KeyRange keys = KeysOfTile<Shape>(a, first_row, b);
  for (int key = keys.begin; key < keys.end; key += Shape::kKeys) {
    __syncthreads();  // the last tiles were read
    const auto row_at = [&](const HeadsOf<const T>& x, int r) -> const T* {
      return key + r < keys.end ? x.Row(b, key + r, key_head) : nullptr;
    };
    LoadTile<KeyTile, Shape::kKeys, kThreads>(key_tile, a.k, [&](int r) { return row_at(a.k, r); });
    LoadTile<KeyTile, Shape::kKeys, kThreads>(value_tile, a.v,
                                              [&](int r) { return row_at(a.v, r); });
    __syncthreads();
    float scores[kRows][4] = {};
    AddDots<QueryTile, KeyTile>(query_tile, row0, key_tile, column * 4, packs, scores);
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < 4; ++j) {
        const int s = key + column * 4 + j;
        const bool sees = s >= visible[i].begin && s < visible[i].end;
        scores[i][j] = sees ? scores[i][j] * scale : -INFINITY;
      }
    }
    softmax.Add(scores);
    __syncthreads();  // the keys were read; their place takes the exponentials
    for (int i = 0; i < kRows; ++i) {
      Pack<float> p;
      for (int j = 0; j < 4; ++j) p[j] = scores[i][j];
      key_tile[(row0 + i) * kColumns + column] = p;
    }
    __syncwarp();  // a row's threads are of one warp
    AddWeighted<KeyTile, kRows, kColumns>(key_tile, row0, value_tile, column, softmax.out);
  }
  softmax.Finish();
  if (a.splits > 1) {
    for (int i = 0; i < kRows; ++i) {
      const QueryRow row = QueryRowOf(a, first_row + row0 + i);
      if (row.token < 0) continue;
      StorePartial<Shape>(a, row, b, softmax.top[i], softmax.sum[i], softmax.out[i]);
    }
    return;
  }
  for (int i = 0; i < kRows; ++i) {
    const float inverse = 1.0f / softmax.sum[i];
    for (int j = 0; j < Shape::kOutPacks; ++j) {
      for (int e = 0; e < 4; ++e) softmax.out[i][j][e] *= inverse;
    }
    const QueryRow row = QueryRowOf(a, first_row + row0 + i);
    if (a.log_sum_exp == nullptr || row.token < 0 || column != 0) continue;
    a.log_sum_exp[(b * a.heads + row.head) * a.q.length + row.token] =
        (softmax.top[i] + log2f(softmax.sum[i])) * kLn2;
  }
  __syncthreads();  // the queries were read; their place takes the output
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < Shape::kOutPacks; ++j) {
      query_tile[QueryTile::Slot(row0 + i, column + j * kColumns)] = softmax.out[i][j];
    }
  }
  __syncthreads();
  StoreTile<QueryTile, Shape::kQueries, kThreads>(query_tile, a.out, [&](int r) -> T* {
    const QueryRow row = QueryRowOf(a, first_row + r);
    return row.token < 0 ? nullptr : a.out.Row(b, row.token, row.head);
  });
}

// Puts the splits of a row together, in ascending order. A warp a row of [B, Hq, T].
template <int kThreads, typename T>
__global__ __launch_bounds__(kThreads) void CombineSplitsKernel(const ForwardArgs<T> a) {
  static_assert(kThreads == kWarp);
  const int64_t row = blockIdx.x, d = a.q.head_dim;
  const int64_t t = row % a.q.length, h = row / a.q.length % a.heads;
  const int64_t b = row / a.q.length / a.heads;
  const float* stats = a.partial_stat + row * a.splits * 2;
  float top = -INFINITY;
  for (int s = 0; s < a.splits; ++s) top = fmaxf(top, stats[s * 2]);
  float sum = 0;
  for (int s = 0; s < a.splits; ++s) sum += stats[s * 2 + 1] * exp2f(stats[s * 2] - top);
  for (int64_t i = threadIdx.x; i < d; i += kThreads) {
    float x = 0;
    for (int s = 0; s < a.splits; ++s) {
      const float factor = exp2f(stats[s * 2] - top);
      x = fmaf(a.partial_out[(row * a.splits + s) * d + i], factor, x);
    }
    a.out.Row(b, t, h)[i] = RoundTo<T>(x / sum);
  }
}

}  // namespace trireme::gpu
