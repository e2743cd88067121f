// Element-wise kernels: a thread does kElements consecutive elements in packs; those behind the
// last whole piece are done one at a time.
#pragma once

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

inline constexpr int kElements = 8;
inline constexpr int kElementThreads = 256;

// Calls body(i, width) with width a std::integral_constant: kElements where packs fit, else 1.
// `packed`: all pointers are aligned for packs.
template <int kWidth>
struct Width {
  static constexpr int value = kWidth;
};
template <typename Body>
__device__ __forceinline__ void ForElements(int64_t n, bool packed, const Body& body) {
  const int64_t begin = (int64_t{blockIdx.x} * kElementThreads + threadIdx.x) * kElements;
  if (packed && begin + kElements <= n) {
    body(begin, Width<kElements>());
    return;
  }
  const int64_t end = begin + kElements < n ? begin + kElements : n;
  for (int64_t i = begin; i < end; ++i) body(i, Width<1>());
}
inline LaunchShape ElementShape(int64_t n, const char* file = __builtin_FILE(),
                                int line = __builtin_LINE()) {
  return {BlocksFor(n, kElements * kElementThreads), kElementThreads, file, line};
}
template <typename... Pointers>
bool ArePackAligned(const Pointers*... p) {
  return (IsPackAligned(p) && ...);
}

// y = a + b in f32, rounded; y may be a or b.
template <typename A, typename B, typename Y>
__global__ void __launch_bounds__(kElementThreads)
    AddKernel(const A* a, const B* b, Y* y, int64_t n, bool packed) {
  ForElements(n, packed, [&](int64_t i, auto width) {
    float left[width.value], right[width.value];
    LoadFloats(a + i, left);
    LoadFloats(b + i, right);
    for (int k = 0; k < width.value; ++k) left[k] += right[k];
    StoreFloats(y + i, left);
  });
}

template <typename From, typename To>
__global__ void __launch_bounds__(kElementThreads)
    CastKernel(const From* source, To* target, int64_t n, bool packed) {
  ForElements(n, packed, [&](int64_t i, auto width) {
    float x[width.value];
    LoadFloats(source + i, x);
    StoreFloats(target + i, x);
  });
}

}  // namespace trireme::gpu
