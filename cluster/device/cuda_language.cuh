// The language of the kernels: CUDA where nvcc compiles them, and the same words in C++ where they
// run on the SIMT harness of the tests. Kernel sources include this and no CUDA header.
//
// Besides CUDA's own words there are Launch, TRIREME_SHARED_ARRAY, SharedPointer<T> (what such an
// array is when it is passed on), Pack<T> and sums over warps and blocks. Arithmetic: sums have a
// fixed order, floats have no atomics.
#pragma once

#include <glog/logging.h>

#include <bit>
#include <cstdint>

#include "cluster/base/status.h"
#include "cluster/device/device_failure.h"
#include "cluster/device/dtype.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
// An array of `count` (a constant) T in shared memory, aligned for packs. Holds anything at first.
#define TRIREME_SHARED_ARRAY(T, name, count) __shared__ alignas(16) T name[count]
#else
#include <simt/cuda_language.h>
#endif

namespace trireme::gpu {

inline constexpr unsigned kFullWarp = 0xffffffffu;
inline constexpr int kWarp = 32;

#if defined(__CUDACC__)
template <typename T>
using SharedPointer = T*;
#else
using simt::SharedPointer;
#endif

struct LaunchShape {
  dim3 grid, block;
  const char* file = __builtin_FILE();  // of the launch, for errors
  int line = __builtin_LINE();
};

// kernel<<<grid, block>>>(args...), ordered on the stream (a Stream, or what has its native()). An
// empty grid launches nothing. A launch that CUDA refuses ends the process.
template <typename S, typename... Params, typename... Args>
void Launch(S& stream, const LaunchShape& shape, void (*kernel)(Params...), Args&&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
#if defined(__CUDACC__)
  kernel<<<shape.grid, shape.block, 0, static_cast<cudaStream_t>(stream.native())>>>(args...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    EndByDeviceFailure(
        StrCat("kernel launch at ", shape.file, ":", shape.line, ": ", cudaGetErrorString(error)));
  }
#else
  simt::LaunchKernel(stream.native(), shape.grid, shape.block,
                     std::string(shape.file) + ":" + std::to_string(shape.line), kernel, args...);
#endif
}

// Blocks that give each of `count` things one of `per_block` places.
inline unsigned BlocksFor(int64_t count, int64_t per_block) {
  const int64_t blocks = (count + per_block - 1) / per_block;
  CHECK_LE(blocks, int64_t{0x7fffffff});
  return static_cast<unsigned>(blocks);
}

// Rounds half to even, NaN stays NaN. The way back is ToFloat of dtype.h.
template <typename T>
__device__ __forceinline__ T RoundTo(float x) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(T) == sizeof(BFloat16)) {
    T rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
  } else {
    return x;
  }
#else
  return FromFloat<T>(x);
#endif
}

// 16 bytes of T, moved in one access.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T values[kSize];
  __device__ __forceinline__ T& operator[](int i) { return values[i]; }
  __device__ __forceinline__ const T& operator[](int i) const { return values[i]; }
};

// Whether packs can be read and written at p. Elements of a matrix are packs when its base is
// aligned and its row stride a multiple of Pack<T>::kSize.
inline __host__ __device__ bool IsPackAligned(const void* p) {
  return reinterpret_cast<uintptr_t>(p) % 16 == 0;
}

// p, which points to global memory: for pointers that a kernel has read, of which the compiler does
// not know it.
template <typename T>
__device__ __forceinline__ T* InGlobalMemory(T* p) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(p));
#endif
  return p;
}

// p must be 16-byte aligned.
template <typename T>
__device__ __forceinline__ Pack<T> LoadPack(const T* p) {
#if defined(__CUDACC__)
  const uint4 bits = *reinterpret_cast<const uint4*>(p);
  Pack<T> pack;
  memcpy(&pack, &bits, sizeof(bits));
  return pack;
#else
  simt::CheckPackAligned(p);
  Pack<T> pack;
  std::memcpy(&pack, p, sizeof(pack));
  return pack;
#endif
}
// p: 16-byte aligned, in global memory.
template <typename T>
__device__ __forceinline__ void StorePack(T* p, const Pack<T>& pack) {
#if defined(__CUDACC__)
  uint4 bits;
  if constexpr (sizeof(T) == 2) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[i] = std::bit_cast<uint16_t>(pack[2 * i]) |
                 static_cast<uint32_t>(std::bit_cast<uint16_t>(pack[2 * i + 1])) << 16;
    }
    bits = make_uint4(words[0], words[1], words[2], words[3]);
  } else {
    memcpy(&bits, &pack, sizeof(bits));
  }
  // One store for certain: an assignment is taken apart where the optimizer sees fit.
  __stwb(reinterpret_cast<uint4*>(p), bits);
#else
  simt::CheckPackAligned(p);
  std::memcpy(p, &pack, sizeof(pack));
#endif
}
#if !defined(__CUDACC__)
template <typename T>
Pack<T> LoadPack(SharedPointer<T> p) {
  simt::CheckPackAligned(p, Pack<T>::kSize);
  Pack<T> pack;
  for (int i = 0; i < Pack<T>::kSize; ++i) pack[i] = p[i];
  return pack;
}
template <typename T>
void StorePack(SharedPointer<T> p, const Pack<T>& pack) {
  simt::CheckPackAligned(p, Pack<T>::kSize);
  for (int i = 0; i < Pack<T>::kSize; ++i) p[i] = pack[i];
}
#endif

// Four floats as bf16 in one access of 8 bytes. p must be 8-byte aligned.
__device__ __forceinline__ void StoreFour(BFloat16* p, const float (&x)[4]) {
  BFloat16 rounded[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) rounded[i] = RoundTo<BFloat16>(x[i]);
#if defined(__CUDACC__)
  uint32_t words[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    words[i] = std::bit_cast<uint16_t>(rounded[2 * i]) |
               static_cast<uint32_t>(std::bit_cast<uint16_t>(rounded[2 * i + 1])) << 16;
  }
  __stwb(reinterpret_cast<uint2*>(p), make_uint2(words[0], words[1]));
#else
  std::memcpy(p, rounded, sizeof(rounded));
#endif
}

// kWidth elements at p as floats, and back (rounded). One element, or whole packs at a 16-byte
// aligned p.
template <int kWidth, typename T>
__device__ __forceinline__ void LoadFloats(const T* p, float (&x)[kWidth]) {
  if constexpr (kWidth == 1) {
    x[0] = ToFloat(*p);
  } else {
    constexpr int kSize = Pack<T>::kSize;
    static_assert(kWidth % kSize == 0);
#pragma unroll
    for (int at = 0; at < kWidth; at += kSize) {
      const Pack<T> pack = LoadPack(p + at);
#pragma unroll
      for (int i = 0; i < kSize; ++i) x[at + i] = ToFloat(pack[i]);
    }
  }
}
template <int kWidth, typename T>
__device__ __forceinline__ void StoreFloats(T* p, const float (&x)[kWidth]) {
  if constexpr (kWidth == 1) {
    *p = RoundTo<T>(x[0]);
  } else {
    constexpr int kSize = Pack<T>::kSize;
    static_assert(kWidth % kSize == 0);
#pragma unroll
    for (int at = 0; at < kWidth; at += kSize) {
      Pack<T> pack;
#pragma unroll
      for (int i = 0; i < kSize; ++i) pack[i] = RoundTo<T>(x[at + i]);
      StorePack(p + at, pack);
    }
  }
}

// The sum over all 32 lanes, halves folded on halves; the same bits in every lane. All lanes must
// come.
template <typename T>
__device__ __forceinline__ T WarpSum(T x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(kFullWarp, x, distance);
  }
  return x;
}
// NaN where a lane has one is not promised.
__device__ __forceinline__ float WarpMax(float x) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, distance));
  }
  return x;
}

// The sum over all lanes of value lane / (32 / kCount), of kCount (1, 2, 4 ...) values a lane: each
// exchange halves what is left to add.
template <int kCount>
__device__ __forceinline__ float WarpSumOfOne(const float (&x)[kCount]) {
  static_assert((kCount & (kCount - 1)) == 0 && kCount <= kWarp);
  float y[kCount];
  for (int i = 0; i < kCount; ++i) y[i] = x[i];
  int distance = kWarp / 2;
#pragma unroll
  for (int count = kCount; count > 1; count /= 2, distance /= 2) {
    const bool upper = (threadIdx.x & distance) != 0;
#pragma unroll
    for (int i = 0; i < count / 2; ++i) {
      const float other = upper ? y[i] : y[i + count / 2];
      y[i] = (upper ? y[i + count / 2] : y[i]) + __shfl_xor_sync(kFullWarp, other, distance);
    }
  }
  for (; distance > 0; distance /= 2) y[0] += __shfl_xor_sync(kFullWarp, y[0], distance);
  return y[0];
}

// Sums over a block of kThreads threads (a multiple of 32, one-dimensional) of kCount values each,
// in place: warps first, then the warps' sums as WarpSum has it. The same bits in every thread. All
// threads must come.
template <int kThreads, int kCount, typename T>
__device__ __forceinline__ void BlockSums(T (&x)[kCount]) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kThreads % kWarp == 0 && kWarps <= kWarp);
  for (int i = 0; i < kCount; ++i) x[i] = WarpSum(x[i]);
  if constexpr (kWarps > 1) {
    TRIREME_SHARED_ARRAY(T, block_sums, kCount * kWarps);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
    __syncthreads();  // the last call's readers are done
    for (int i = 0; i < kCount; ++i) {
      if (lane == 0) block_sums[i * kWarps + warp] = x[i];
    }
    __syncthreads();
    for (int i = 0; i < kCount; ++i) {
      T sum = T(0);
      if (lane < kWarps) sum = block_sums[i * kWarps + lane];
      x[i] = WarpSum(sum);
    }
  }
}
template <int kThreads, typename T>
__device__ __forceinline__ T BlockSum(T x) {
  T sums[1] = {x};
  BlockSums<kThreads>(sums);
  return sums[0];
}
template <int kThreads>
__device__ __forceinline__ float BlockMax(float x) {
  constexpr int kWarps = kThreads / kWarp;
  static_assert(kThreads % kWarp == 0 && kWarps <= kWarp);
  x = WarpMax(x);
  if constexpr (kWarps > 1) {
    TRIREME_SHARED_ARRAY(float, block_max, kWarps);
    const int lane = threadIdx.x % kWarp;
    __syncthreads();
    if (lane == 0) block_max[threadIdx.x / kWarp] = x;
    __syncthreads();
    float top = -INFINITY;
    if (lane < kWarps) top = block_max[lane];
    x = WarpMax(top);
  }
  return x;
}

}  // namespace trireme::gpu
