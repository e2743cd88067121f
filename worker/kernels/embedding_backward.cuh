// The backward pass of embedding.h: tokens are sorted by their row of the table, then the gradients
// of each run of tokens with one row are added in token order.
//
// 1. TokenKeysKernel sorts pieces of kSortedPiece tokens.
// 2. MergeRunsKernel merges kRunsMerged sorted runs into one, until there is one.
// 3. EmbeddingBackwardKernel adds the runs of at most kShortRun tokens, LongRunsKernel the others,
//    whose sums, one after the other, take so long that loads must be far ahead of them.
//
// Work is linear in the gradients, and N log N in the keys, which are 8 bytes a token.
#pragma once

#include "cluster/device/cuda_language.cuh"
#include "worker/kernels/embedding.cuh"

namespace trireme::gpu {

// What is sorted: a token's row of the table, then its place among the tokens. No two are equal.
using TokenKey = uint64_t;
inline constexpr uint32_t kNoRow = 0xffffffffu;  // of ids that this table lacks: the last ones

__device__ __forceinline__ uint32_t RowOf(TokenKey key) { return static_cast<uint32_t>(key >> 32); }
__device__ __forceinline__ int64_t TokenOf(TokenKey key) { return static_cast<uint32_t>(key); }

inline constexpr int kSortedPiece = 256;  // keys, and threads, a block
inline constexpr int kRunsMerged = 8;

// keys: those of ids[0, tokens), each piece of kSortedPiece ascending. A key's place is the number
// of smaller ones. A thread a token.
inline __global__ void __launch_bounds__(kSortedPiece)
    TokenKeysKernel(const int32_t* ids, int64_t first, int64_t rows, int64_t tokens,
                    TokenKey* keys) {
  TRIREME_SHARED_ARRAY(TokenKey, piece, kSortedPiece);
  const int64_t base = int64_t{blockIdx.x} * kSortedPiece, n = base + threadIdx.x;
  TokenKey key = ~TokenKey{0};
  if (n < tokens) {
    const int64_t row = ids[n] - first;
    const bool here = row >= 0 && row < rows;
    key = TokenKey{here ? static_cast<uint32_t>(row) : kNoRow} << 32 | static_cast<uint32_t>(n);
  }
  piece[threadIdx.x] = key;
  __syncthreads();
  int smaller = 0;
#pragma unroll 16
  for (int i = 0; i < kSortedPiece; ++i) smaller += piece[i] < key ? 1 : 0;
  if (n < tokens) keys[base + smaller] = key;
}

// Merges each kRunsMerged neighbouring runs of `run` ascending keys, a power of two. A key's place
// is the number of smaller ones in each of them, its own run too. A thread a key.
inline __global__ void __launch_bounds__(kSortedPiece)
    MergeRunsKernel(const TokenKey* keys, int64_t tokens, int64_t run, TokenKey* merged) {
  const int64_t n = int64_t{blockIdx.x} * kSortedPiece + threadIdx.x;
  if (n >= tokens) return;
  const int64_t begin = n / (run * kRunsMerged) * (run * kRunsMerged);
  const TokenKey key = keys[n];
  int64_t smaller[kRunsMerged] = {};
  for (int64_t step = run; step > 0; step /= 2) {
#pragma unroll
    for (int r = 0; r < kRunsMerged; ++r) {  // side by side: the loads of one wait for each other
      const int64_t in_run = smaller[r] + step, last = begin + r * run + in_run - 1;
      if (in_run <= run && last < tokens && keys[last] < key) smaller[r] = in_run;
    }
  }
  int64_t place = begin;
  for (int r = 0; r < kRunsMerged; ++r) place += smaller[r];
  merged[place] = key;
}

inline constexpr int kShortRun = 256;  // tokens
inline constexpr int kPlacesEach =
    4;  // places among the keys a block, for the runs that begin there

// How many keys from keys[begin] on have its row, exact up to kShortRun, more than that where there
// are more. The same answer in all lanes; all must come.
__device__ __forceinline__ int RunLength(const TokenKey* keys, int64_t tokens, int64_t begin) {
  const uint32_t row = RowOf(keys[begin]);
  for (int at = 0; at <= kShortRun; at += kWarp) {
    const int64_t n = begin + at + threadIdx.x % kWarp;
    const unsigned mask = __ballot_sync(kFullWarp, n < tokens && RowOf(keys[n]) == row);
    if (mask != kFullWarp) return at + __popc(mask);
  }
  return kShortRun + 1;
}

// sums += the rows of dy that keys[0 .. count) name, in their order, a few loads in flight at a
// time. column: the thread's columns of row 0 of dy.
template <int kWidth, typename T>
__device__ __forceinline__ void AddRows(const TokenKey* keys, int count, const T* column,
                                        int64_t hidden, float (&sums)[kWidth]) {
  constexpr int kInFlight = 4;
  for (int at = 0; at < count; at += kInFlight) {
    float rows[kInFlight][kWidth];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (at + i < count) LoadFloats(column + TokenOf(keys[at + i]) * hidden, rows[i]);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (at + i < count) {
        for (int k = 0; k < kWidth; ++k) sums[k] += rows[i][k];
      }
    }
  }
}

// dtable[row, :] += the rows of dy of each short run of keys, in registers. Block (b, c) does
// columns [c, c + 1) kWidth kEmbeddingThreads of the runs that begin at places [b, b + 1)
// kPlacesEach. So each row of the table has one writer. dy: [tokens, hidden].
template <int kWidth, typename T>
__global__ void __launch_bounds__(kEmbeddingThreads)
    EmbeddingBackwardKernel(const TokenKey* keys, const T* dy, int64_t tokens, int64_t hidden,
                            float* dtable) {
  const int64_t column = (int64_t{blockIdx.y} * kEmbeddingThreads + threadIdx.x) * kWidth;
  for (int i = 0; i < kPlacesEach; ++i) {
    const int64_t n = int64_t{blockIdx.x} * kPlacesEach + i;
    if (n >= tokens) return;
    const uint32_t row = RowOf(keys[n]);
    if (row == kNoRow) return;
    if (n > 0 && RowOf(keys[n - 1]) == row) continue;
    const int length = RunLength(keys, tokens, n);
    if (length > kShortRun || column >= hidden) continue;
    float* out = dtable + row * hidden + column;
    float sums[kWidth];
    LoadFloats(out, sums);
    AddRows(keys + n, length, dy + column, hidden, sums);
    StoreFloats(out, sums);
  }
}

// The first of keys[low, high) that is not below `key`; `high` where there is none.
__device__ __forceinline__ int64_t FirstNotBelow(const TokenKey* keys, int64_t low, int64_t high,
                                                 TokenKey key) {
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (keys[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return high;
}

struct TokenRun {
  int64_t begin, end;  // places among the keys
};

// The run of more than kShortRun keys of which keys[place] is the first at a multiple of kShortRun,
// or an empty one. Each such run has one such place.
__device__ __forceinline__ TokenRun FindLongRun(const TokenKey* keys, int64_t tokens,
                                                int64_t place) {
  const uint32_t row = RowOf(keys[place]);
  const int64_t before = place < kShortRun ? 0 : place - kShortRun;
  if (row == kNoRow || (place >= kShortRun && RowOf(keys[before]) == row)) return {0, 0};
  const int64_t begin = FirstNotBelow(keys, before, place, TokenKey{row} << 32);
  if (begin + kShortRun >= tokens || RowOf(keys[begin + kShortRun]) != row) return {0, 0};
  return {begin, FirstNotBelow(keys, begin + kShortRun, tokens, TokenKey{row + 1} << 32)};
}

inline constexpr int kStripColumns = 64;
inline constexpr int kStripStride =
    kStripColumns + 1;                 // of rows in shared memory, against conflicts
inline constexpr int kStripLoads = 4;  // a thread

// What EmbeddingBackwardKernel leaves: block (b, c) does columns [c, c + 1) kStripColumns of the
// long run that has place b kShortRun as its first multiple. All threads load the next rows while
// the first kStripColumns add those in shared memory, a column a thread.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kEmbeddingThreads)
    LongRunsKernel(const TokenKey* keys, const T* dy, int64_t tokens, int64_t hidden,
                   float* dtable) {
  constexpr int kThreadsARow = kStripColumns / kWidth;
  constexpr int kRowsALoad = kEmbeddingThreads / kThreadsARow;
  constexpr int kRowsAtOnce = kStripLoads * kRowsALoad;
  TRIREME_SHARED_ARRAY(float, staged, kRowsAtOnce* kStripStride);
  const TokenRun run = FindLongRun(keys, tokens, int64_t{blockIdx.x} * kShortRun);
  if (run.begin == run.end) return;

  const int64_t strip = int64_t{blockIdx.y} * kStripColumns;
  const int load_row = threadIdx.x / kThreadsARow,
            load_column = threadIdx.x % kThreadsARow * kWidth;
  float next[kStripLoads][kWidth] = {};
  const auto load = [&](int64_t base) {
#pragma unroll
    for (int i = 0; i < kStripLoads; ++i) {
      const int64_t n = base + i * kRowsALoad + load_row, column = strip + load_column;
      if (n < run.end && column < hidden) {
        LoadFloats(dy + TokenOf(keys[n]) * hidden + column, next[i]);
      }
    }
  };
  const bool adds = threadIdx.x < kStripColumns && strip + threadIdx.x < hidden;
  float* out = dtable + RowOf(keys[run.begin]) * hidden + strip + threadIdx.x;
  float sum = adds ? *out : 0;
  load(run.begin);
  for (int64_t base = run.begin; base < run.end; base += kRowsAtOnce) {
#pragma unroll
    for (int i = 0; i < kStripLoads; ++i) {
      const int at = (i * kRowsALoad + load_row) * kStripStride + load_column;
      for (int k = 0; k < kWidth; ++k) staged[at + k] = next[i][k];
    }
    __syncthreads();
    load(base + kRowsAtOnce);
    const int count = run.end - base < kRowsAtOnce ? static_cast<int>(run.end - base) : kRowsAtOnce;
    if (adds) {
#pragma unroll 8
      for (int r = 0; r < count; ++r) sum += staged[r * kStripStride + threadIdx.x];
    }
    __syncthreads();
  }
  if (adds) *out = sum;
}

}  // namespace trireme::gpu
