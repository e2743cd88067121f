// RMS norm and layer norm, forward and backward. Formulas and the place of each rounding are those
// of norm_cpu.cc; RMS norm is the layer norm with mean 0 and no bias.
//
// Two forms of each kernel. In the first a block has a row in registers (a thread one piece of
// kPiece elements), so that memory is passed once: for tensors of one type T whose rows are made of
// packs, and f32 for what products of several ranks or weights are added up in. The second takes
// any width and any mix of types, several times as slow.
#pragma once

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

inline constexpr int kPiece = 8;

// What the kernels share. Pointers that an operation does not have are null.
struct NormSize {
  int64_t rows;
  int width;
  float eps;
};

// Blocks of a backward pass that one multiprocessor holds at once. 132 multiprocessors, those of an
// H100, are assumed of every GPU: sums have one order on all of them.
template <int kThreads>
inline constexpr int kNormBlocksResident = kThreads >= 512 ? 1 : 512 / kThreads;

// Rows a partial sum of dweight and dbias, which are a block's: as many blocks as are resident, so
// that all end together, of a few rows at least.
template <int kThreads>
int NormRowsOfBlock(int64_t rows) {
  constexpr int64_t kBlocks = int64_t{132} * kNormBlocksResident<kThreads>, kFewest = 8;
  const int64_t even = (rows + kBlocks - 1) / kBlocks;
  return static_cast<int>(even < kFewest ? kFewest : even + even % 2);
}

// A thread's piece of a row as it lies in memory. Words: the compiler gives a 16-bit value that is
// kept a register of its own.
template <typename T>
struct RowPiece {
  static constexpr int kPacks = kPiece / Pack<T>::kSize;
  uint32_t words[4 * kPacks];

  __device__ __forceinline__ void Load(const T* p) {
#pragma unroll
    for (int i = 0; i < kPacks; ++i) {
      const Pack<T> pack = LoadPack(p + i * Pack<T>::kSize);
      memcpy(words + 4 * i, &pack, sizeof(pack));
    }
  }
  __device__ __forceinline__ float operator[](int k) const {
    if constexpr (sizeof(T) == sizeof(float)) return std::bit_cast<float>(words[k]);
    const uint32_t word = words[k / 2];
    return std::bit_cast<float>(k % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
};

// One block a row. x_out (with residual): x + residual, rounded. mean: null for RMS norm. R: T or
// f32.
template <int kThreads, bool kLayer, typename T, typename R>
__global__ void __launch_bounds__(kThreads)
    NormForwardKernel(const T* x, const R* residual, const float* weight, const float* bias,
                      NormSize size, T* x_out, T* y, float* mean, float* inverse) {
  const int begin = static_cast<int>(threadIdx.x) * kPiece;
  const bool has = begin < size.width;
  const int64_t row = blockIdx.x, at = row * size.width + begin;
  float v[kPiece] = {};
  float sum = 0;
  if (has) {
    LoadFloats(x + at, v);
    if (residual != nullptr) {
      float added[kPiece];
      LoadFloats(residual + at, added);
      for (int k = 0; k < kPiece; ++k) v[k] = ToFloat(RoundTo<T>(v[k] + added[k]));
      StoreFloats(x_out + at, v);
    }
    for (int k = 0; k < kPiece; ++k) sum += v[k];
  }
  const float width = static_cast<float>(size.width);
  const float m = kLayer ? BlockSum<kThreads>(sum) / width : 0.0f;
  float squares = 0;
  if (has) {
    for (int k = 0; k < kPiece; ++k) squares = fmaf(v[k] - m, v[k] - m, squares);
  }
  const float r = 1.0f / sqrtf(BlockSum<kThreads>(squares) / width + size.eps);
  if (has) {
    float w[kPiece], b[kPiece];
    LoadFloats(weight + begin, w);
    if (kLayer) LoadFloats(bias + begin, b);
    for (int k = 0; k < kPiece; ++k) {
      const float normal = (v[k] - m) * r;
      v[k] = kLayer ? fmaf(normal, w[k], b[k]) : normal * w[k];
    }
    StoreFloats(y + at, v);
  }
  if (threadIdx.x != 0) return;
  if (kLayer) mean[row] = m;
  inverse[row] = r;
}

// As BlockSums (cuda_language.cuh), with one barrier a call and warps' sums added in ascending
// order. `turn`: of calls that follow each other without a barrier between, 0 and 1 by turns.
template <int kThreads, int kCount>
__device__ __forceinline__ void BlockSumsByTurns(float (&x)[kCount], int turn) {
  constexpr int kWarps = kThreads / kWarp, kLanes = kWarp / kCount;
  TRIREME_SHARED_ARRAY(float, warp_sums, 2 * kWarps * kCount);
  const int first = turn * kWarps * kCount;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const float sum = WarpSumOfOne(x);
  if (lane % kLanes == 0) warp_sums[first + warp * kCount + lane / kLanes] = sum;
  __syncthreads();
  for (int i = 0; i < kCount; ++i) x[i] = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    for (int i = 0; i < kCount; ++i) x[i] += warp_sums[first + w * kCount + i];
  }
}

// What the backward pass reads of a row.
template <typename T, typename D>
struct NormRow {
  RowPiece<D> dy;
  RowPiece<T> x, past;
  float inverse, mean;
};

// Block b does rows [b rows_of_block, (b + 1) rows_of_block), in bf16 two at a time, and reads the
// next while it works on those before, where a thread has registers for both. partials[b, :]: its
// sums of dweight, and behind them those of dbias for a layer norm; [blocks, (1 or 2) width]. dx
// may be dy or past. With g = dy weight, z = (x - m) r: dx = r (g - mean(g) - z mean(g z)) + past;
// mean(g) only for a layer norm. D: T or f32.
template <int kThreads, bool kLayer, typename T, typename D>
__global__ void __launch_bounds__(kThreads, kNormBlocksResident<kThreads>)
    NormBackwardKernel(const D* dy, const T* x, const float* weight, const float* mean,
                       const float* inverse, const T* past, NormSize size, int rows_of_block, T* dx,
                       float* partials) {
  constexpr int kSums = kLayer ? 2 : 1;
  constexpr bool kAhead = kThreads <= 512;
  constexpr int kRows = kAhead && sizeof(T) + sizeof(D) == 4 ? 2 : 1;
  const int begin = static_cast<int>(threadIdx.x) * kPiece;
  const bool has = begin < size.width;
  const float width = static_cast<float>(size.width);
  const int64_t first = int64_t{blockIdx.x} * rows_of_block;
  const int64_t last = first + rows_of_block < size.rows ? first + rows_of_block : size.rows;
  const auto read = [&](int64_t from, NormRow<T, D>(&to)[kRows]) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int64_t row = from + i;
      if (!has || row >= last) continue;
      const int64_t at = row * size.width + begin;
      to[i].dy.Load(dy + at);
      to[i].x.Load(x + at);
      if (kAhead && past != nullptr) to[i].past.Load(past + at);
      to[i].inverse = inverse[row];
      to[i].mean = kLayer ? mean[row] : 0.0f;
    }
  };
  float w[kPiece] = {}, dw[kPiece] = {}, db[kLayer ? kPiece : 1] = {};
  if (kAhead && has) LoadFloats(weight + begin, w);
  NormRow<T, D> now[kRows], next[kRows];
  if (kAhead) read(first, now);
  int turn = 0;
  for (int64_t row = first; row < last; row += kRows) {
    if (kAhead) {
      read(row + kRows, next);
    } else {
      read(row, now);
      if (has) LoadFloats(weight + begin, w);
    }
    float sums[kRows * kSums] = {};  // of g z, of g
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (!has || row + i >= last) continue;
      for (int k = 0; k < kPiece; ++k) {
        const float d = now[i].dy[k], z = (now[i].x[k] - now[i].mean) * now[i].inverse;
        dw[k] = fmaf(d, z, dw[k]);
        if constexpr (kLayer) db[k] += d;
        sums[i * kSums] = fmaf(d * w[k], z, sums[i * kSums]);
        if constexpr (kLayer) sums[i * kSums + 1] += d * w[k];
      }
    }
    BlockSumsByTurns<kThreads>(sums, turn);
    turn ^= 1;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (!has || row + i >= last) continue;
      const float mean_gz = sums[i * kSums] / width;
      const float mean_g = kLayer ? sums[i * kSums + kSums - 1] / width : 0.0f;
      const int64_t at = (row + i) * size.width + begin;
      if (!kAhead && past != nullptr) now[i].past.Load(past + at);
      float out[kPiece];
      for (int k = 0; k < kPiece; ++k) {
        const float z = (now[i].x[k] - now[i].mean) * now[i].inverse;
        const float d = fmaf(z, -mean_gz, now[i].dy[k] * w[k] - mean_g);
        out[k] = past != nullptr ? fmaf(now[i].inverse, d, now[i].past[k]) : now[i].inverse * d;
      }
      StoreFloats(dx + at, out);
    }
    if (kAhead) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) now[i] = next[i];
    }
  }
  if (!has) return;
  float* partial = partials + int64_t{blockIdx.x} * kSums * size.width + begin;
  StoreFloats(partial, dw);
  if constexpr (kLayer) StoreFloats(partial + size.width, db);
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
                          const float* inverse, AnyFloats past, NormSize size, int rows_of_block,
                          AnyFloats dx, float* partials) {
  constexpr int kSums = kLayer ? 2 : 1;
  const float width = static_cast<float>(size.width);
  float* dw = partials + int64_t{blockIdx.x} * kSums * size.width;
  float* db = dw + size.width;
  const int64_t first = int64_t{blockIdx.x} * rows_of_block;
  const int64_t last = first + rows_of_block < size.rows ? first + rows_of_block : size.rows;
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
