// Sums over rows: partial sums of fixed blocks of rows, made by the kernels around this file, are
// folded here in ascending order.
#pragma once

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

inline constexpr int kFoldColumns = 8;    // columns a block
inline constexpr int kFoldSegments = 64;  // consecutive runs of partial sums, summed side by side

// out[i] = (accumulate ? out[i] : 0) + sum over b of partials[b, i]: ascending in each of
// kFoldSegments runs of ceil(blocks / kFoldSegments), then over the runs in ascending order.
// partials: [blocks, width], rows `stride` apart. out: [width]. second: of the next `width` columns
// of partials, or null. Blocks of kFoldColumns x kFoldSegments threads; grid: FoldShape.
template <int kColumns = kFoldColumns, int kSegments = kFoldSegments>
__global__ void FoldColumnsKernel(const float* partials, int64_t blocks, int64_t stride,
                                  int64_t width, float* out, float* second, bool accumulate) {
  TRIREME_SHARED_ARRAY(float, sums, kColumns* kSegments);
  if (blockIdx.y > 0) {
    partials += width;
    out = second;
  }
  const int64_t column = int64_t{blockIdx.x} * kColumns + threadIdx.x;
  const int64_t run = (blocks + kSegments - 1) / kSegments;
  const int64_t begin = run * threadIdx.y;
  const int64_t end = begin + run < blocks ? begin + run : blocks;
  float sum = 0;
  if (column < width) {
#pragma unroll 8
    for (int64_t b = begin; b < end; ++b) sum += partials[b * stride + column];
  }
  sums[threadIdx.y * kColumns + threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y != 0 || column >= width) return;
  float total = 0;
  for (int s = 0; s < kSegments; ++s) total += sums[s * kColumns + threadIdx.x];
  out[column] = accumulate ? out[column] + total : total;
}

// outputs: 2 with a second one.
inline LaunchShape FoldShape(int64_t width, unsigned outputs, const char* file = __builtin_FILE(),
                             int line = __builtin_LINE()) {
  return {dim3(BlocksFor(width, kFoldColumns), outputs), dim3(kFoldColumns, kFoldSegments), file,
          line};
}

inline constexpr int kBiasRows = 32;  // rows a partial sum
inline constexpr int kBiasThreads = 128;

// partials[b, :] = sum of rows [b kBiasRows, (b + 1) kBiasRows) of dy, ascending. dy: [rows,
// width]. Block (c, b) does kWidth columns a thread. kWidth 1, or 8 where rows are made of packs.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kBiasThreads)
    BiasPartialsKernel(const T* dy, int64_t rows, int64_t width, float* partials) {
  const int64_t column = (int64_t{blockIdx.x} * kBiasThreads + threadIdx.x) * kWidth;
  if (column >= width) return;
  const int64_t begin = int64_t{blockIdx.y} * kBiasRows;
  const int64_t end = begin + kBiasRows < rows ? begin + kBiasRows : rows;
  float sums[kWidth] = {};
#pragma unroll 8
  for (int64_t n = begin; n < end; ++n) {
    float row[kWidth];
    LoadFloats(dy + n * width + column, row);
    for (int k = 0; k < kWidth; ++k) sums[k] += row[k];
  }
  StoreFloats(partials + int64_t{blockIdx.y} * width + column, sums);
}

}  // namespace trireme::gpu
