// What of CUDA's language and device library kernels use, in C++: the other face of
// cluster/device/cuda_language.cuh, for kernels that run on the SIMT harness.
#pragma once

#include <cuda_runtime_api.h>
#include <simt/block.h>
#include <simt/builtins.h>
#include <simt/device_memory.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// A static shared array; `name[i]` and name + i as of a T*.
#define TRIREME_SHARED_ARRAY(T, name, count)    \
  static constexpr char name##_tag = 0;         \
  const ::trireme::simt::SharedPointer<T> name( \
      ::trireme::simt::CurrentSharedArray(&name##_tag, #name, (count), sizeof(T)), 0)

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

inline void __syncthreads() { trireme::simt::Block::Current().SyncThreads(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  using trireme::simt::WarpOperation;
  trireme::simt::Block::Current().Warp(WarpOperation::kSync, "__syncwarp", mask, 0, 0);
}
inline void __trap() { trireme::simt::Block::Current().Fail("__trap"); }
inline void __threadfence() {}
inline void __threadfence_block() {}

namespace trireme::simt {

// The lane that a shuffle of `width` lanes reads: `source`, or the lane itself where that lies
// outside its group.
template <typename T>
T Shuffle(const char* what, unsigned mask, T value, int lane, int source, int width) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(uint64_t));
  if (source < lane / width * width || source >= lane / width * width + width) source = lane;
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = Block::Current().Warp(WarpOperation::kShuffle, what, mask, bits, source);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

inline unsigned Ballot(const char* what, unsigned mask, bool vote) {
  return static_cast<unsigned>(
      Block::Current().Warp(WarpOperation::kBallot, what, mask, vote ? 1 : 0, 0));
}

// Runs of one thread at a time need no atomics; integers alone, since the order of float sums must
// not be left to chance.
template <typename T, typename F>
T Modify(T* p, const F& f) {
  static_assert(std::is_integral_v<T>);
  const T old = *p;
  *p = f(old);
  return old;
}

}  // namespace trireme::simt

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize) {
  const int lane = trireme::simt::Block::Current().lane();
  const int from = lane / width * width + (source % width + width) % width;
  return trireme::simt::Shuffle("__shfl_sync", mask, value, lane, from, width);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize) {
  const int lane = trireme::simt::Block::Current().lane();
  return trireme::simt::Shuffle("__shfl_xor_sync", mask, value, lane, lane ^ lane_mask, width);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = trireme::simt::Block::Current().lane();
  return trireme::simt::Shuffle("__shfl_down_sync", mask, value, lane,
                                lane + static_cast<int>(delta), width);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  const int lane = trireme::simt::Block::Current().lane();
  return trireme::simt::Shuffle("__shfl_up_sync", mask, value, lane, lane - static_cast<int>(delta),
                                width);
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
  return trireme::simt::Ballot("__ballot_sync", mask, vote != 0);
}
inline int __any_sync(unsigned mask, int vote) {
  return trireme::simt::Ballot("__any_sync", mask, vote != 0) != 0;
}
inline int __all_sync(unsigned mask, int vote) {
  return trireme::simt::Ballot("__all_sync", mask, vote != 0) == mask;
}

// Arithmetic. Where a GPU approximates (rsqrtf, __expf, __logf, __fdividef), this is exact to
// rounding: results agree within the GPU's documented error, not in bits.
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(unsigned x) { return std::countl_zero(x); }
inline int __ffs(unsigned x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32);
}
template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename T>
T __ldcs(const T* p) {
  return *p;
}
template <typename T>
void __stcs(T* p, T value) {
  *p = value;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t max(int64_t a, int64_t b) { return a < b ? b : a; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }

template <typename T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return trireme::simt::Modify(p, [&](T old) { return old + value; });
}
template <typename T>
T atomicOr(T* p, std::type_identity_t<T> value) {
  return trireme::simt::Modify(p, [&](T old) { return old | value; });
}
template <typename T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  return trireme::simt::Modify(p, [&](T old) { return old < value ? value : old; });
}

namespace trireme::simt {

// A pack is 16 bytes at a multiple of 16.
inline void CheckPackAligned(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 == 0) return;
  Block::Current().Fail("a pack at an address that is no multiple of 16");
}
template <typename T>
void CheckPackAligned(SharedPointer<T> p, int elements) {
  if (p.index() % elements == 0) return;
  Block::Current().Fail("a pack in a shared array at an index that is no multiple of its size");
}

// A kernel's plain pointers are memory of the GPU: it could not read the host's.
template <typename T>
void CheckArgument(const std::string& kernel, size_t index, const T& argument) {
  if constexpr (std::is_pointer_v<T>) {
    if (argument == nullptr || IsDeviceMemory(argument, 1)) return;
    throw KernelError("simt: argument " + std::to_string(index) +
                      " is no memory of the GPU; launch " + kernel);
  }
}

template <typename... Params>
void CheckArguments(const std::string& kernel, const std::tuple<Params...>& arguments) {
  size_t index = 0;
  std::apply([&](const auto&... each) { (CheckArgument(kernel, ++index, each), ...); }, arguments);
}

// kernel<<<grid, block, 0, stream>>>(args...): queued on the stream, arguments by value.
template <typename... Params, typename... Args>
void LaunchKernel(void* stream, dim3 grid, dim3 block, std::string name, void (*kernel)(Params...),
                  Args&&... args) {
  Enqueue(static_cast<cudaStream_t>(stream),
          [=, name = std::move(name), packed = std::tuple<Params...>(std::forward<Args>(args)...)] {
            CheckArguments(name, packed);
            RunGrid(grid, block, name, [&] { std::apply(kernel, packed); });
          });
}

}  // namespace trireme::simt
