// RMS norm and layer norm, forward and backward. Formulas and the place of each rounding are those
// of norm_cpu.cc; RMS norm is the layer norm with mean 0 and no bias.
//
// Two forms of each kernel. In the first a block has a row in registers (a thread kPieces pieces of
// kPiece elements), so that memory is passed once: for tensors of one type T whose rows are made of
// packs. The second takes any width and any mix of types, a few times as slow.
#pragma once

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

inline constexpr int kPiece = 8;
inline constexpr int kNormRows = 16;  // rows a partial sum of dweight and dbias

// What the kernels share. Pointers that an operation does not have are null.
struct NormSize {
  int64_t rows;
  int width;
  float eps;
};

// Pieces of a row of `width` elements in a thread's registers: piece p of thread t is elements
// [(p kThreads + t) kPiece, + kPiece).
template <int kThreads, int kPieces>
struct RowPieces {
  int width;
  __device__ __forceinline__ int Begin(int p) const {
    return (p * kThreads + static_cast<int>(threadIdx.x)) * kPiece;
  }
  __device__ __forceinline__ bool Has(int p) const { return Begin(p) < width; }
};

// One block a row. x_out (with residual): x + residual, rounded. mean: null for RMS norm.
template <int kThreads, int kPieces, bool kLayer, typename T>
__global__ void __launch_bounds__(kThreads)
    NormForwardKernel(const T* x, const T* residual, const float* weight, const float* bias,
                      NormSize size, T* x_out, T* y, float* mean, float* inverse) {
  const RowPieces<kThreads, kPieces> pieces{size.width};
  const int64_t row = blockIdx.x, at = row * size.width;
  float v[kPieces][kPiece];
  float sum = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (!pieces.Has(p)) continue;
    const int64_t begin = at + pieces.Begin(p);
    LoadFloats(x + begin, v[p]);
    if (residual != nullptr) {
      float added[kPiece];
      LoadFloats(residual + begin, added);
      for (int k = 0; k < kPiece; ++k) v[p][k] = ToFloat(RoundTo<T>(v[p][k] + added[k]));
      StoreFloats(x_out + begin, v[p]);
    }
    for (int k = 0; k < kPiece; ++k) sum += v[p][k];
  }
  const float width = static_cast<float>(size.width);
  const float m = kLayer ? BlockSum<kThreads>(sum) / width : 0.0f;
  float squares = 0;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (!pieces.Has(p)) continue;
    for (int k = 0; k < kPiece; ++k) squares = fmaf(v[p][k] - m, v[p][k] - m, squares);
  }
  const float r = 1.0f / sqrtf(BlockSum<kThreads>(squares) / width + size.eps);
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (!pieces.Has(p)) continue;
    const int begin = pieces.Begin(p);
    float w[kPiece], b[kPiece];
    LoadFloats(weight + begin, w);
    if (kLayer) LoadFloats(bias + begin, b);
    for (int k = 0; k < kPiece; ++k) {
      const float normal = (v[p][k] - m) * r;
      v[p][k] = kLayer ? fmaf(normal, w[k], b[k]) : normal * w[k];
    }
    StoreFloats(y + at + begin, v[p]);
  }
  if (threadIdx.x != 0) return;
  if (kLayer) mean[row] = m;
  inverse[row] = r;
}

// Block b does rows [b kNormRows, (b + 1) kNormRows). partials[b, :]: its sums of dweight, and
// behind them those of dbias for a layer norm; [blocks, (1 or 2) width]. dx may be dy or past.
// With g = dy weight, z = (x - m) r: dx = r (g - mean(g) - z mean(g z)) + past; mean(g) only for a
// layer norm.
template <int kThreads, int kPieces, bool kLayer, typename T>
__global__ void __launch_bounds__(kThreads)
    NormBackwardKernel(const T* dy, const T* x, const float* weight, const float* mean,
                       const float* inverse, const T* past, NormSize size, T* dx, float* partials) {
  const RowPieces<kThreads, kPieces> pieces{size.width};
  constexpr int kSums = kLayer ? 2 : 1;
  const float width = static_cast<float>(size.width);
  const int64_t first = int64_t{blockIdx.x} * kNormRows;
  const int64_t last = first + kNormRows < size.rows ? first + kNormRows : size.rows;
  float dw[kPieces][kPiece] = {}, db[kLayer ? kPieces : 1][kPiece] = {};
  for (int64_t row = first; row < last; ++row) {
    const int64_t at = row * size.width;
    const float r = inverse[row], m = kLayer ? mean[row] : 0.0f;
    float g[kPieces][kPiece], z[kPieces][kPiece];
    float sums[kSums] = {};  // of g z, of g
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      if (!pieces.Has(p)) continue;
      const int begin = pieces.Begin(p);
      float w[kPiece];
      LoadFloats(dy + at + begin, g[p]);
      LoadFloats(x + at + begin, z[p]);
      LoadFloats(weight + begin, w);
      for (int k = 0; k < kPiece; ++k) {
        z[p][k] = (z[p][k] - m) * r;
        dw[p][k] = fmaf(g[p][k], z[p][k], dw[p][k]);
        if constexpr (kLayer) db[p][k] += g[p][k];
        g[p][k] *= w[k];
        sums[0] = fmaf(g[p][k], z[p][k], sums[0]);
        if constexpr (kLayer) sums[1] += g[p][k];
      }
    }
    BlockSums<kThreads>(sums);
    const float mean_gz = sums[0] / width, mean_g = kLayer ? sums[kSums - 1] / width : 0.0f;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      if (!pieces.Has(p)) continue;
      const int64_t begin = at + pieces.Begin(p);
      float added[kPiece] = {};
      if (past != nullptr) LoadFloats(past + begin, added);
      for (int k = 0; k < kPiece; ++k) {
        const float d = r * fmaf(z[p][k], -mean_gz, g[p][k] - mean_g);
        g[p][k] = added[k] + d;
      }
      StoreFloats(dx + begin, g[p]);
    }
  }
  float* partial = partials + int64_t{blockIdx.x} * kSums * size.width;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    if (!pieces.Has(p)) continue;
    StoreFloats(partial + pieces.Begin(p), dw[p]);
    if constexpr (kLayer) StoreFloats(partial + size.width + pieces.Begin(p), db[p]);
  }
}

// A tensor whose type is known when the kernel runs.
struct AnyFloats {
  void* data;
  bool is_bf16;

  __device__ __forceinline__ float Load(int64_t i) const {
    return is_bf16 ? ToFloat(static_cast<const BFloat16*>(data)[i])
                   : static_cast<const float*>(data)[i];
  }
  __device__ __forceinline__ void Store(int64_t i, float x) const {
    if (is_bf16) {
      static_cast<BFloat16*>(data)[i] = RoundTo<BFloat16>(x);
    } else {
      static_cast<float*>(data)[i] = x;
    }
  }
};

inline constexpr int kAnyNormThreads = 256;

// The general forms: a thread has every kAnyNormThreads-th element of a row, in memory.
template <bool kLayer>
__global__ void __launch_bounds__(kAnyNormThreads)
    AnyNormForwardKernel(AnyFloats x, AnyFloats residual, const float* weight, const float* bias,
                         NormSize size, AnyFloats x_out, AnyFloats y, float* mean, float* inverse) {
  const int64_t row = blockIdx.x, at = row * size.width;
  const AnyFloats in = residual.data != nullptr ? x_out : x;
  const float width = static_cast<float>(size.width);
  float sum = 0;
  for (int i = threadIdx.x; i < size.width; i += kAnyNormThreads) {
    if (residual.data != nullptr) x_out.Store(at + i, x.Load(at + i) + residual.Load(at + i));
    if (kLayer) sum += in.Load(at + i);
  }
  const float m = kLayer ? BlockSum<kAnyNormThreads>(sum) / width : 0.0f;
  float squares = 0;
  for (int i = threadIdx.x; i < size.width; i += kAnyNormThreads) {
    const float v = in.Load(at + i) - m;
    squares = fmaf(v, v, squares);
  }
  const float r = 1.0f / sqrtf(BlockSum<kAnyNormThreads>(squares) / width + size.eps);
  for (int i = threadIdx.x; i < size.width; i += kAnyNormThreads) {
    const float normal = (in.Load(at + i) - m) * r;
    y.Store(at + i, kLayer ? fmaf(normal, weight[i], bias[i]) : normal * weight[i]);
  }
  if (threadIdx.x != 0) return;
  if (kLayer) mean[row] = m;
  inverse[row] = r;
}

template <bool kLayer>
__global__ void __launch_bounds__(kAnyNormThreads)
    AnyNormBackwardKernel(AnyFloats dy, AnyFloats x, const float* weight, const float* mean,
                          const float* inverse, AnyFloats past, NormSize size, AnyFloats dx,
                          float* partials) {
  constexpr int kSums = kLayer ? 2 : 1;
  const float width = static_cast<float>(size.width);
  float* dw = partials + int64_t{blockIdx.x} * kSums * size.width;
  float* db = dw + size.width;
  const int64_t first = int64_t{blockIdx.x} * kNormRows;
  const int64_t last = first + kNormRows < size.rows ? first + kNormRows : size.rows;
  for (int64_t row = first; row < last; ++row) {
    const int64_t at = row * size.width;
    const float r = inverse[row], m = kLayer ? mean[row] : 0.0f;
    float sums[kSums] = {};
    for (int i = threadIdx.x; i < size.width; i += kAnyNormThreads) {
      const float d = dy.Load(at + i), z = (x.Load(at + i) - m) * r, g = d * weight[i];
      dw[i] = fmaf(d, z, row == first ? 0.0f : dw[i]);
      if constexpr (kLayer) db[i] = row == first ? d : db[i] + d;
      sums[0] = fmaf(g, z, sums[0]);
      if constexpr (kLayer) sums[1] += g;
    }
    BlockSums<kAnyNormThreads>(sums);
    const float mean_gz = sums[0] / width, mean_g = kLayer ? sums[kSums - 1] / width : 0.0f;
    for (int i = threadIdx.x; i < size.width; i += kAnyNormThreads) {
      const float g = dy.Load(at + i) * weight[i], z = (x.Load(at + i) - m) * r;
      const float d = r * fmaf(z, -mean_gz, g - mean_g);
      dx.Store(at + i, past.data != nullptr ? past.Load(at + i) + d : d);
    }
  }
}

}  // namespace trireme::gpu
