// Kernels of embedding.h. kWidth: columns a thread, 1, or 8 where rows are made of packs.
#pragma once

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

inline constexpr int kEmbeddingThreads = 128;

// y[n, :] = table[ids[n] - first, :], zeros where that is none of `rows` rows. A thread a piece of
// a row. y: [tokens, hidden].
template <int kWidth, typename In, typename Out>
__global__ void __launch_bounds__(kEmbeddingThreads)
    EmbeddingForwardKernel(const int32_t* ids, const In* table, int64_t first, int64_t rows,
                           int64_t tokens, int64_t hidden, Out* y) {
  const int64_t i = (int64_t{blockIdx.x} * kEmbeddingThreads + threadIdx.x) * kWidth;
  if (i >= tokens * hidden) return;
  const int64_t row = ids[i / hidden] - first;
  float x[kWidth] = {};
  if (row >= 0 && row < rows) LoadFloats(table + row * hidden + i % hidden, x);
  StoreFloats(y + i, x);
}

// y[n, :] += table[positions[n], :]. A position outside the table ends the kernel.
template <int kWidth, typename In, typename Out>
__global__ void __launch_bounds__(kEmbeddingThreads)
    PositionEmbeddingKernel(const int32_t* positions, const In* table, int64_t rows, int64_t tokens,
                            int64_t hidden, Out* y) {
  const int64_t i = (int64_t{blockIdx.x} * kEmbeddingThreads + threadIdx.x) * kWidth;
  if (i >= tokens * hidden) return;
  const int64_t row = positions[i / hidden];
  if (row < 0 || row >= rows) __trap();
  float x[kWidth], added[kWidth];
  LoadFloats(y + i, x);
  LoadFloats(table + row * hidden + i % hidden, added);
  for (int k = 0; k < kWidth; ++k) x[k] += added[k];
  StoreFloats(y + i, x);
}

inline constexpr int kIdsEach = 4;  // ids that a thread looks at between two barriers
inline constexpr int kIdsAtOnce = kIdsEach * kEmbeddingThreads;
inline constexpr int kIdMasks = kIdsAtOnce / kWarp;

// Which of ids[base, base + kIdsAtOnce), below `end`, are `id`: a bit each, ascending, in
// masks[0 .. kIdMasks). All threads of the block must come.
__device__ __forceinline__ void FindIds(const int32_t* ids, int64_t base, int64_t end, int32_t id,
                                        SharedPointer<unsigned> masks) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
  for (int i = 0; i < kIdsEach; ++i) {
    const int64_t n = base + i * kEmbeddingThreads + threadIdx.x;
    const unsigned mask = __ballot_sync(kFullWarp, n < end && ids[n < end ? n : base] == id);
    if (lane == 0) masks[i * (kEmbeddingThreads / kWarp) + warp] = mask;
  }
  __syncthreads();
}

// Whether ids[0, n) has `id`. Looks backwards: frequent ids are near. The same answer in every
// thread; all must come.
__device__ __forceinline__ bool HasEarlier(const int32_t* ids, int64_t n, int32_t id,
                                           SharedPointer<unsigned> masks) {
  for (int64_t end = n; end > 0; end -= kIdsAtOnce) {
    const int64_t base = end > kIdsAtOnce ? end - kIdsAtOnce : 0;
    FindIds(ids, base, end, id, masks);
    unsigned any = 0;
    for (int w = 0; w < kIdMasks; ++w) any |= masks[w];
    __syncthreads();
    if (any != 0) return true;
  }
  return false;
}

// Adds rows to kWidth sums in the order they come, a few loads in flight at a time.
template <int kWidth, typename T>
struct RowAdder {
  static constexpr int kInFlight = 4;
  const T* column;  // of row 0
  int64_t stride;
  float (&sums)[kWidth];
  int64_t waiting[kInFlight];
  int count = 0;

  __device__ __forceinline__ RowAdder(const T* column, int64_t stride, float (&sums)[kWidth])
      : column(column), stride(stride), sums(sums) {}
  __device__ __forceinline__ void Add(int64_t row) {
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (i == count) waiting[i] = row;  // registers cannot be indexed
    }
    if (++count == kInFlight) Flush();
  }
  __device__ __forceinline__ void Flush() {
    float rows[kInFlight][kWidth];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (i < count) LoadFloats(column + waiting[i] * stride, rows[i]);
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (i < count) {
        for (int k = 0; k < kWidth; ++k) sums[k] += rows[i][k];
      }
    }
    count = 0;
  }
};

// dtable[ids[n] - first, :] += dy[n, :] in token order, in registers. Block (n, c) does columns
// [c, c + 1) kWidth kEmbeddingThreads for all tokens with token n's id, if n is the first of them;
// else nothing. So each row of the table has one writer. dy: [tokens, hidden].
template <int kWidth, typename T>
__global__ void __launch_bounds__(kEmbeddingThreads)
    EmbeddingBackwardKernel(const int32_t* ids, const T* dy, int64_t first, int64_t rows,
                            int64_t tokens, int64_t hidden, float* dtable) {
  TRIREME_SHARED_ARRAY(unsigned, masks, 2 * kIdMasks);
  const int64_t n = blockIdx.x;
  const int32_t id = ids[n];
  const int64_t row = id - first;
  if (row < 0 || row >= rows || HasEarlier(ids, n, id, masks + 0)) return;
  const int64_t column = (int64_t{blockIdx.y} * kEmbeddingThreads + threadIdx.x) * kWidth;
  const bool mine = column < hidden;
  float sums[kWidth] = {};
  float* out = dtable + row * hidden + column;
  if (mine) LoadFloats(out, sums);
  RowAdder<kWidth, T> adder(dy + column, hidden, sums);
  int side = 0;  // masks are read while the next ones are written
  for (int64_t base = n; base < tokens; base += kIdsAtOnce, side ^= 1) {
    FindIds(ids, base, tokens, id, masks + side * kIdMasks);
    for (int w = 0; w < kIdMasks && mine; ++w) {
      unsigned mask = masks[side * kIdMasks + w];
      for (; mask != 0; mask &= mask - 1) adder.Add(base + w * kWarp + __ffs(mask) - 1);
    }
  }
  if (!mine) return;
  adder.Flush();
  StoreFloats(out, sums);
}

}  // namespace trireme::gpu
