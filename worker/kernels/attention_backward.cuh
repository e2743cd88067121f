// Attention backward, without atomics: one kernel sums dk and dv of a tile of keys over its queries
// in ascending order, another dq of a tile of queries over its keys. Both compute the scores again.
// f32 throughout. Dao 2023, arXiv:2307.08691, algorithm 2.
#pragma once

#include "worker/kernels/attention_tile.cuh"

namespace trireme::gpu {

// Tiles of kTile queries and kTile keys. For scores, threads stand in rows of kColumns, each with
// kRows x 4 of them; where there are more threads than scores, the rest waits. For dk and dv,
// kGroup threads share 4 keys, each with kOutPacks packs of them; for dq a row of threads has its
// kRows queries, kQueryPacks packs a thread.
template <int kHeadDim, int kTileRows, int kThreadRows, int kBlockThreads>
struct BackwardShape {
  static constexpr int kD = kHeadDim, kTile = kTileRows, kRows = kThreadRows;
  static constexpr int kThreads = kBlockThreads;  // of the kernel of dk and dv
  static constexpr int kPacks = kD / 4, kColumns = kTile / 4;
  static constexpr int kScoreThreads = kTile / kRows * kColumns;  // and of the kernel of dq
  static constexpr int kGroup = kThreads / kColumns, kOutPacks = kPacks / kGroup;
  static constexpr int kQueryPacks = kPacks / kColumns;
  static_assert(kScoreThreads <= kThreads && kGroup * kOutPacks == kPacks);
  static_assert(16 * (4 * kTile * kPacks + 2 * kTile * kColumns) <= 48 * 1024);
  using QueryTile = TileLayout<kD, kRows == 4 ? 2 : kRows == 2 ? 1 : 0>;
  using KeyTile = TileLayout<kD, 2>;
};
template <int kD>
struct BackwardShapes;
template <>
struct BackwardShapes<32> : BackwardShape<32, 32, 4, 64> {};
template <>
struct BackwardShapes<64> : BackwardShape<64, 32, 2, 128> {};
template <>
struct BackwardShapes<128> : BackwardShape<128, 16, 1, 64> {};
template <>
struct BackwardShapes<256> : BackwardShape<256, 8, 1, 32> {};

template <typename T>
struct BackwardArgs {
  HeadsOf<const T> dout, q, k, v, out;
  HeadsOf<T> dq, dk, dv;
  const float* log_sum_exp;  // [B, Hq, T]
  float* delta;              // [B, Hq, T]: dout . out
  const int32_t* starts;     // [B, T], or null
  float scale;
  int heads, key_heads;

  __device__ __forceinline__ int64_t StatIndex(int64_t b, int64_t h, int t) const {
    return (b * heads + h) * q.length + t;
  }
};

// A warp a row of [B, Hq, T].
template <int kThreads, typename T>
__global__ __launch_bounds__(kThreads) void AttentionDeltaKernel(const BackwardArgs<T> a,
                                                                 int64_t rows) {
  constexpr int kSize = Pack<T>::kSize;
  const int lane = threadIdx.x % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= rows) return;  // a whole warp
  const int64_t t = row % a.q.length, h = row / a.q.length % a.heads;
  const int64_t b = row / a.q.length / a.heads;
  const T *dout = a.dout.Row(b, t, h), *out = a.out.Row(b, t, h);
  float sum = 0;
  if (a.dout.packed && a.out.packed) {
    for (int i = lane * kSize; i < a.q.head_dim; i += kWarp * kSize) {
      const Pack<T> x = LoadPack(dout + i), y = LoadPack(out + i);
      for (int j = 0; j < kSize; ++j) sum = fmaf(ToFloat(x[j]), ToFloat(y[j]), sum);
    }
  } else {
    for (int i = lane; i < a.q.head_dim; i += kWarp) {
      sum = fmaf(ToFloat(dout[i]), ToFloat(out[i]), sum);
    }
  }
  sum = WarpSum(sum);
  if (lane == 0) a.delta[row] = sum;
}

// The tiles of queries and keys that are in shared memory.
struct BackwardTiles {
  SharedTile q, dout, k, v;
};

// kRows x 4 of p = exp(score - log_sum_exp) and ds = p (dout . v - delta) scale; zeros where a
// query does not see a key, or is none.
template <typename Shape, typename T>
__device__ __forceinline__ void ScoreGradients(const BackwardArgs<T>& a, const BackwardTiles& tiles,
                                               int64_t b, int64_t h, int first_query, int first_key,
                                               float (&p)[Shape::kRows][4],
                                               float (&ds)[Shape::kRows][4]) {
  using QueryTile = typename Shape::QueryTile;
  using KeyTile = typename Shape::KeyTile;
  const int row0 = threadIdx.x / Shape::kColumns * Shape::kRows;
  const int key0 = threadIdx.x % Shape::kColumns * 4;
  const int packs = (a.q.head_dim + 3) / 4;
  for (int i = 0; i < Shape::kRows; ++i) {
    for (int j = 0; j < 4; ++j) p[i][j] = ds[i][j] = 0;
  }
  AddDots<QueryTile, KeyTile>(tiles.q, row0, tiles.k, key0, packs, p);
  AddDots<QueryTile, KeyTile>(tiles.dout, row0, tiles.v, key0, packs, ds);
  for (int i = 0; i < Shape::kRows; ++i) {
    const int t = first_query + row0 + i;
    const bool is_row = t < a.q.length;
    const int64_t stat = is_row ? a.StatIndex(b, h, t) : 0;
    const float shift = is_row ? a.log_sum_exp[stat] * kLog2E : 0.0f;
    const float delta = is_row ? a.delta[stat] : 0.0f;
    const int start = is_row && a.starts != nullptr ? a.starts[b * a.q.length + t] : 0;
    for (int j = 0; j < 4; ++j) {
      const int s = first_key + key0 + j;
      const bool sees = is_row && s >= start && s <= t;
      p[i][j] = sees ? exp2f(p[i][j] * (a.scale * kLog2E) - shift) : 0.0f;
      ds[i][j] = sees ? p[i][j] * ((ds[i][j] - delta) * a.scale) : 0.0f;
    }
  }
}

template <int kRows, int kColumns>
__device__ __forceinline__ void StoreWeights(const SharedTile& weights,
                                             const float (&x)[kRows][4]) {
  const int row0 = threadIdx.x / kColumns * kRows, column = threadIdx.x % kColumns;
  for (int i = 0; i < kRows; ++i) {
    Pack<float> four;
    for (int j = 0; j < 4; ++j) four[j] = x[i][j];
    weights[(row0 + i) * kColumns + column] = four;
  }
}

// out[key, pack] += sum over the tile's queries, ascending, of weights[query, key] x[query, pack]:
// 4 keys and kOutPacks packs a thread.
template <typename Shape>
__device__ __forceinline__ void AddTransposed(const SharedTile& weights, const SharedTile& x,
                                              Pack<float> (&out)[4][Shape::kOutPacks]) {
  const int keys = threadIdx.x / Shape::kGroup, column = threadIdx.x % Shape::kGroup;
  for (int row = 0; row < Shape::kTile; ++row) {
    const Pack<float> w = weights[row * Shape::kColumns + keys];
    for (int j = 0; j < Shape::kOutPacks; ++j) {
      const Pack<float> value = x[Shape::QueryTile::Slot(row, column + j * Shape::kGroup)];
      for (int i = 0; i < 4; ++i) {
        for (int e = 0; e < 4; ++e) out[i][j][e] = fmaf(w[i], value[e], out[i][j][e]);
      }
    }
  }
}

// Loads rows [first, first + kTile) of one head, zeros beyond the length.
template <typename Layout, typename Shape, int kThreads, typename T>
__device__ __forceinline__ void LoadHeadTile(const SharedTile& tile, const HeadsOf<const T>& x,
                                             int64_t b, int64_t h, int first) {
  LoadTile<Layout, Shape::kTile, kThreads>(tile, x, [&](int r) -> const T* {
    return first + r < x.length ? x.Row(b, first + r, h) : nullptr;
  });
}
template <typename Layout, typename Shape, int kThreads, typename T>
__device__ __forceinline__ void StoreHeadTile(const SharedTile& tile, const HeadsOf<T>& x,
                                              int64_t b, int64_t h, int first) {
  StoreTile<Layout, Shape::kTile, kThreads>(tile, x, [&](int r) -> T* {
    return first + r < x.length ? x.Row(b, first + r, h) : nullptr;
  });
}

// dk and dv of one tile of keys. Grid: (tiles of keys, Hk, B).
template <typename Shape, typename T>
__global__ __launch_bounds__(Shape::kThreads) void AttentionKeyGradientKernel(
    const BackwardArgs<T> a) {
  using QueryTile = typename Shape::QueryTile;
  using KeyTile = typename Shape::KeyTile;
  constexpr int kThreads = Shape::kThreads, kTile = Shape::kTile, kColumns = Shape::kColumns;
  TRIREME_SHARED_ARRAY(Pack<float>, q_tile, kTile * Shape::kPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, dout_tile, kTile * Shape::kPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, k_tile, kTile * Shape::kPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, v_tile, kTile * Shape::kPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, p_tile, kTile * kColumns);
  TRIREME_SHARED_ARRAY(Pack<float>, ds_tile, kTile * kColumns);
  const BackwardTiles tiles = {q_tile, dout_tile, k_tile, v_tile};
  const int64_t b = blockIdx.z, key_head = blockIdx.y;
  const int group = a.heads / a.key_heads, length = static_cast<int>(a.q.length);
  const int first_key = static_cast<int>(blockIdx.x) * kTile;
  LoadHeadTile<KeyTile, Shape, kThreads>(k_tile, a.k, b, key_head, first_key);
  LoadHeadTile<KeyTile, Shape, kThreads>(v_tile, a.v, b, key_head, first_key);
  Pack<float> dk[4][Shape::kOutPacks] = {}, dv[4][Shape::kOutPacks] = {};
  for (int64_t h = key_head * group; h < (key_head + 1) * group; ++h) {
    for (int query = first_key; query < length; query += kTile) {
      // Documents begin later and later: no query from here on sees these keys.
      if (a.starts != nullptr && a.starts[b * length + query] >= first_key + kTile) break;
      __syncthreads();  // the last tiles were read
      LoadHeadTile<QueryTile, Shape, kThreads>(q_tile, a.q, b, h, query);
      LoadHeadTile<QueryTile, Shape, kThreads>(dout_tile, a.dout, b, h, query);
      __syncthreads();
      if (threadIdx.x < Shape::kScoreThreads) {
        float p[Shape::kRows][4], ds[Shape::kRows][4];
        ScoreGradients<Shape>(a, tiles, b, h, query, first_key, p, ds);
        StoreWeights<Shape::kRows, kColumns>(p_tile, p);
        StoreWeights<Shape::kRows, kColumns>(ds_tile, ds);
      }
      __syncthreads();
      AddTransposed<Shape>(p_tile, dout_tile, dv);
      AddTransposed<Shape>(ds_tile, q_tile, dk);
    }
  }
  __syncthreads();  // keys and values were read; their places take the gradients
  const int keys = threadIdx.x / Shape::kGroup * 4, column = threadIdx.x % Shape::kGroup;
  for (int i = 0; i < 4; ++i) {
    for (int j = 0; j < Shape::kOutPacks; ++j) {
      const int slot = KeyTile::Slot(keys + i, column + j * Shape::kGroup);
      k_tile[slot] = dk[i][j];
      v_tile[slot] = dv[i][j];
    }
  }
  __syncthreads();
  StoreHeadTile<KeyTile, Shape, kThreads>(k_tile, a.dk, b, key_head, first_key);
  StoreHeadTile<KeyTile, Shape, kThreads>(v_tile, a.dv, b, key_head, first_key);
}

// dq of one tile of queries. Grid: (tiles of queries, Hq, B); those that see most keys start first.
template <typename Shape, typename T>
__global__ __launch_bounds__(Shape::kScoreThreads) void AttentionQueryGradientKernel(
    const BackwardArgs<T> a) {
  using QueryTile = typename Shape::QueryTile;
  using KeyTile = typename Shape::KeyTile;
  constexpr int kThreads = Shape::kScoreThreads, kTile = Shape::kTile, kColumns = Shape::kColumns;
  constexpr int kRows = Shape::kRows, kOut = Shape::kQueryPacks;
  TRIREME_SHARED_ARRAY(Pack<float>, q_tile, kTile * Shape::kPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, dout_tile, kTile * Shape::kPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, k_tile, kTile * Shape::kPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, v_tile, kTile * Shape::kPacks);
  TRIREME_SHARED_ARRAY(Pack<float>, ds_tile, kTile * kColumns);
  const BackwardTiles tiles = {q_tile, dout_tile, k_tile, v_tile};
  const int64_t b = blockIdx.z, h = blockIdx.y, key_head = h / (a.heads / a.key_heads);
  const int length = static_cast<int>(a.q.length);
  const int first_query = static_cast<int>(gridDim.x - 1 - blockIdx.x) * kTile;
  const int row0 = threadIdx.x / kColumns * kRows, column = threadIdx.x % kColumns;
  LoadHeadTile<QueryTile, Shape, kThreads>(q_tile, a.q, b, h, first_query);
  LoadHeadTile<QueryTile, Shape, kThreads>(dout_tile, a.dout, b, h, first_query);
  const int first_key = a.starts == nullptr ? 0 : a.starts[b * length + first_query];
  Pack<float> dq[kRows][kOut] = {};
  for (int key = first_key / kTile * kTile; key < min(first_query + kTile, length); key += kTile) {
    __syncthreads();  // the last tiles were read
    LoadHeadTile<KeyTile, Shape, kThreads>(k_tile, a.k, b, key_head, key);
    LoadHeadTile<KeyTile, Shape, kThreads>(v_tile, a.v, b, key_head, key);
    __syncthreads();
    float p[kRows][4], ds[kRows][4];
    ScoreGradients<Shape>(a, tiles, b, h, first_query, key, p, ds);
    StoreWeights<kRows, kColumns>(ds_tile, ds);
    __syncthreads();
    AddWeighted<KeyTile, kRows, kColumns>(ds_tile, row0, k_tile, column, dq);
  }
  __syncthreads();  // the queries were read; their place takes the gradient
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kOut; ++j) {
      q_tile[QueryTile::Slot(row0 + i, column + j * kColumns)] = dq[i][j];
    }
  }
  __syncthreads();
  StoreHeadTile<QueryTile, Shape, kThreads>(q_tile, a.dq, b, h, first_query);
}

}  // namespace trireme::gpu
