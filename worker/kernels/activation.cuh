// Kernels of activation.h, element by element as in activation_cpu.cc.
#pragma once

#include "cluster/device/elementwise.cuh"

namespace trireme::gpu {

// As the CPU's: the tanh form is x times the sigmoid of 2 sqrt(2 / pi) (x + 0.044715 x^3).
inline constexpr float kGeluLinear = 1.5957691216f;
inline constexpr float kGeluCubic = 0.0713548162726f;

// 1 / (1 + e^-x), without overflow: e^-x may be infinite.
__device__ __forceinline__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

template <typename T>
__global__ void __launch_bounds__(kElementThreads)
    SwiGluForwardKernel(const T* gate, const T* up, T* y, int64_t n, bool packed) {
  ForElements(n, packed, [&](int64_t i, auto width) {
    float g[width.value], u[width.value];
    LoadFloats(gate + i, g);
    LoadFloats(up + i, u);
    for (int k = 0; k < width.value; ++k) g[k] = g[k] * Sigmoid(g[k]) * u[k];
    StoreFloats(y + i, g);
  });
}

// dgate may be gate, dup may be up or dy: a thread has read its elements before it writes them.
template <typename T>
__global__ void __launch_bounds__(kElementThreads)
    SwiGluBackwardKernel(const T* dy, const T* gate, const T* up, T* dgate, T* dup, int64_t n,
                         bool packed) {
  ForElements(n, packed, [&](int64_t i, auto width) {
    float d[width.value], g[width.value], u[width.value];
    LoadFloats(dy + i, d);
    LoadFloats(gate + i, g);
    LoadFloats(up + i, u);
    for (int k = 0; k < width.value; ++k) {
      const float s = Sigmoid(g[k]), silu = g[k] * s;
      g[k] = d[k] * u[k] * fmaf(silu, 1.0f - s, s);
      u[k] = d[k] * silu;
    }
    StoreFloats(dgate + i, g);
    StoreFloats(dup + i, u);
  });
}

template <typename T>
__global__ void __launch_bounds__(kElementThreads)
    GeluForwardKernel(const T* x, T* y, int64_t n, bool packed) {
  ForElements(n, packed, [&](int64_t i, auto width) {
    float v[width.value];
    LoadFloats(x + i, v);
    for (int k = 0; k < width.value; ++k) {
      const float inner = v[k] * fmaf(v[k] * v[k], kGeluCubic, kGeluLinear);
      v[k] = v[k] * Sigmoid(inner);
    }
    StoreFloats(y + i, v);
  });
}

template <typename T>
__global__ void __launch_bounds__(kElementThreads)
    GeluBackwardKernel(const T* dy, const T* x, T* dx, int64_t n, bool packed) {
  ForElements(n, packed, [&](int64_t i, auto width) {
    float d[width.value], v[width.value];
    LoadFloats(dy + i, d);
    LoadFloats(x + i, v);
    for (int k = 0; k < width.value; ++k) {
      const float square = v[k] * v[k];
      const float inner = v[k] * fmaf(square, kGeluCubic, kGeluLinear);
      const float slope = fmaf(square, 3 * kGeluCubic, kGeluLinear);
      const float s = Sigmoid(inner);
      d[k] = d[k] * fmaf(v[k] * slope, s * (1.0f - s), s);
    }
    StoreFloats(dx + i, d);
  });
}

}  // namespace trireme::gpu
