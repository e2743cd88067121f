// Sums in f64 whose order is fixed by the element's index alone.
#pragma once

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

inline constexpr int kSumThreads = 256;
inline constexpr int kSumElements = 1 << 14;  // of a block

// The sum in f64 of f(x[0]) .. f(x[n - 1]), the same in every thread. Which elements are added in
// which order depends on their index alone, not on the alignment of x.
template <int kThreads, typename F>
__device__ __forceinline__ double BlockSumF64(const float* x, int64_t n, const F& f) {
  constexpr int kSize = Pack<float>::kSize;
  const bool packed = IsPackAligned(x);
  double sums[kSize] = {};
  for (int64_t i = threadIdx.x * kSize; i < n; i += kThreads * kSize) {
    Pack<float> pack = {};
    if (packed && i + kSize <= n) {
      pack = LoadPack(x + i);
    } else {
      for (int j = 0; j < kSize; ++j) {
        if (i + j < n) pack[j] = x[i + j];
      }
    }
    for (int j = 0; j < kSize; ++j) sums[j] += f(static_cast<double>(pack[j]));
  }
  return BlockSum<kThreads>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// sums[block] = the sum of the block's kSumElements elements.
template <int kThreads>
__global__ __launch_bounds__(kThreads) void SumF64Kernel(const float* x, int64_t n, double* sums) {
  const int64_t begin = static_cast<int64_t>(blockIdx.x) * kSumElements;
  const double sum = BlockSumF64<kThreads>(x + begin, min(n - begin, int64_t{kSumElements}),
                                           [](double value) { return value; });
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// sum[0] = the n sums of blocks, added in their order. One thread: they are few.
template <int kThreads>
__global__ __launch_bounds__(kThreads) void AddSumsKernel(const double* sums, int64_t n,
                                                          double* sum) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += sums[i];
  *sum = total;
}

}  // namespace trireme::gpu
