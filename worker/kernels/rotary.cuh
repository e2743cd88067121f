// Rotary positions in place, on heads that lie anywhere in a fused row: no copy splits q, k and v.
#pragma once

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

inline constexpr int kRotaryThreads = 128;

// A thread turns kWidth pairs of one head of one token: elements i and i + half. kWidth 1, or 8
// where heads, halves and rows are made of packs. x: the first head of token 0; tokens are `stride`
// apart, heads head_dim. cosines, sines: [rows, half]. A position outside them ends the kernel.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kRotaryThreads)
    RotaryKernel(T* x, const int32_t* positions, const float* cosines, const float* sines,
                 float sign, uint32_t tokens, uint32_t heads, int64_t head_dim, int64_t stride,
                 uint32_t half, int64_t rows) {
  // In 32 bits: divisions of 64 would cost more than the memory that is moved.
  const uint32_t i = (blockIdx.x * kRotaryThreads + threadIdx.x) * kWidth;
  if (i >= tokens * heads * half) return;
  const uint32_t of_head = i / half, pair = i - of_head * half;
  const uint32_t n = of_head / heads, head = of_head - n * heads;
  const int64_t position = positions[n];
  if (position < 0 || position >= rows) __trap();
  T* low = x + n * stride + head * head_dim + pair;
  T* high = low + half;
  float a[kWidth], b[kWidth], c[kWidth], s[kWidth];
  LoadFloats(low, a);
  LoadFloats(high, b);
  LoadFloats(cosines + position * half + pair, c);
  LoadFloats(sines + position * half + pair, s);
  for (int k = 0; k < kWidth; ++k) {
    const float sine = s[k] * sign, turned = fmaf(a[k], c[k], -(b[k] * sine));
    b[k] = fmaf(b[k], c[k], a[k] * sine);
    a[k] = turned;
  }
  StoreFloats(low, a);
  StoreFloats(high, b);
}

}  // namespace trireme::gpu
