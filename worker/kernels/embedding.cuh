// Kernels of embedding.h's forward passes. kWidth: columns a thread, 1, or 8 where rows are made of
// packs.
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

}  // namespace trireme::gpu
