// New keys or values into a cache.
#pragma once

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

inline constexpr int kCacheThreads = 128;

// A thread copies kWidth elements of one token: 1, or a pack where rows are made of packs. x:
// `length` tokens a sequence, x_stride apart; the cache's places are cache_stride apart, `capacity`
// a sequence. width: elements a token. A place outside the cache ends the kernel.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kCacheThreads)
    AppendToCacheKernel(const T* x, int64_t x_stride, const int32_t* lengths, int64_t tokens,
                        int64_t length, int64_t width, T* cache, int64_t cache_stride,
                        int64_t capacity) {
  const int64_t i = (int64_t{blockIdx.x} * kCacheThreads + threadIdx.x) * kWidth;
  if (i >= tokens * width) return;
  const int64_t token = i / width, column = i % width, sequence = token / length;
  const int64_t place = lengths[sequence] - length + token % length;
  if (place < 0 || place >= capacity) __trap();
  const T* from = x + token * x_stride + column;
  T* to = cache + (sequence * capacity + place) * cache_stride + column;
  if constexpr (kWidth == 1) {
    *to = *from;
  } else {
    static_assert(kWidth == Pack<T>::kSize);
    StorePack(to, LoadPack(from));
  }
}

}  // namespace trireme::gpu
