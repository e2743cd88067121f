// Kernels of the fused classifier. One block takes one row; rows of any width and alignment go
// through 16-byte accesses but for their ends.
#pragma once

#include "cluster/device/cuda_language.cuh"

namespace trireme::gpu {

inline constexpr int kClassifierThreads = 512;

// Elements before the first address at which packs of T can be accessed.
template <typename T>
__device__ __forceinline__ int64_t ElementsBeforePacks(const T* p) {
  return static_cast<int64_t>((16 - reinterpret_cast<uintptr_t>(p) % 16) % 16 / sizeof(T));
}

// exp(x): that of f32 to its last bits, that of bf16 values to about 2^-20.
template <typename T>
__device__ __forceinline__ float ExpOf(float x) {
  if constexpr (sizeof(T) == sizeof(float)) return expf(x);
  return __expf(x);
}

// The maximum so far and the sum of exp(x - maximum), in one pass over values of type T.
template <typename T>
struct RunningSoftmax {
  float top = -INFINITY;
  float sum = 0;

  // fmaxf passes NaN by; the exponential of NaN then makes the sum NaN.
  template <int kCount>
  __device__ __forceinline__ void Add(const float (&x)[kCount]) {
    float next = top;
    for (int i = 0; i < kCount; ++i) next = fmaxf(next, x[i]);
    const float shift = next == -INFINITY ? 0.0f : next;
    sum *= ExpOf<T>(top - shift);
    for (int i = 0; i < kCount; ++i) sum += ExpOf<T>(x[i] - shift);
    top = next;
  }

  // Of all threads of a block, the same in each. All threads must come.
  template <int kThreads>
  __device__ __forceinline__ RunningSoftmax OfBlock() const {
    const float largest = BlockMax<kThreads>(top);
    const float shift = largest == -INFINITY ? 0.0f : largest;
    return {largest, BlockSum<kThreads>(sum * expf(top - shift))};
  }
};

// In double: the loss of a sure token is a small difference of large terms.
__device__ __forceinline__ float LossOf(float top, float sum, float target) {
  return static_cast<float>(log(static_cast<double>(sum)) +
                            (static_cast<double>(top) - static_cast<double>(target)));
}

// A thread's elements of one row: its share of the packs, eight elements at a time, then of both
// ends.
template <int kThreads, typename T>
__device__ __forceinline__ RunningSoftmax<T> ThreadSoftmax(const T* row, int64_t width) {
  constexpr int kSize = Pack<T>::kSize, kPacks = 8 / kSize;
  RunningSoftmax<T> softmax;
  const int64_t before = min(ElementsBeforePacks(row), width);
  const int64_t packs = (width - before) / kSize;
  const T* body = row + before;
  int64_t i = threadIdx.x;
  for (; i + (kPacks - 1) * kThreads < packs; i += kPacks * kThreads) {
    float x[kPacks * kSize];
#pragma unroll
    for (int p = 0; p < kPacks; ++p) {
      const Pack<T> pack = LoadPack(body + (i + p * kThreads) * kSize);
#pragma unroll
      for (int j = 0; j < kSize; ++j) x[p * kSize + j] = ToFloat(pack[j]);
    }
    softmax.Add(x);
  }
  for (; i < packs; i += kThreads) {
    float x[kSize];
    LoadFloats(body + i * kSize, x);
    softmax.Add(x);
  }
  for (int64_t j = threadIdx.x; j < width - packs * kSize; j += kThreads) {
    const float x[1] = {ToFloat(row[j < before ? j : j + packs * kSize])};
    softmax.Add(x);
  }
  return softmax;
}

// As SoftmaxStatistics. A block a row.
template <int kThreads, typename T>
__global__ __launch_bounds__(kThreads) void SoftmaxStatisticsKernel(
    const T* logits, const int32_t* labels, int64_t width, int64_t stride, int64_t first_row,
    int32_t no_label, float* row_max, float* row_sum, float* target) {
  const int64_t n = blockIdx.x;
  const T* row = logits + n * stride;
  const auto all = ThreadSoftmax<kThreads>(row, width).template OfBlock<kThreads>();
  if (threadIdx.x != 0) return;
  row_max[n] = all.top;
  row_sum[n] = all.sum;
  const int32_t label = labels[n];
  const int64_t v = label - first_row;
  target[n] = label != no_label && v >= 0 && v < width ? ToFloat(row[v]) : 0.0f;
}

// As CombineSoftmaxStatistics. A thread a row; neighbours read neighbours.
template <int kThreads>
__global__ __launch_bounds__(kThreads) void CombineSoftmaxStatisticsKernel(
    const float* gathered, int64_t ranks, int64_t rows, float* row_max, float* row_sum,
    float* target) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= rows) return;
  float top = gathered[n];
  for (int64_t r = 1; r < ranks; ++r) top = fmaxf(top, gathered[r * 3 * rows + n]);
  float sum = 0, logit = 0;
  for (int64_t r = 0; r < ranks; ++r) {
    const float* of_rank = gathered + r * 3 * rows + n;
    sum += of_rank[rows] * expf(of_rank[0] - top);
    logit += of_rank[2 * rows];
  }
  row_max[n] = top;
  row_sum[n] = sum;
  target[n] = logit;
}

// As TokenLosses. A thread a row.
template <int kThreads>
__global__ __launch_bounds__(kThreads) void TokenLossesKernel(const int32_t* labels, int64_t rows,
                                                              int32_t no_label,
                                                              const float* row_max,
                                                              const float* row_sum,
                                                              const float* target, float* losses) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (n >= rows) return;
  losses[n] = labels[n] == no_label ? 0.0f : LossOf(row_max[n], row_sum[n], target[n]);
}

// What the elements of one row become. X: the type of the logits.
template <typename X>
struct RowGradient {
  float top, factor, scale;
  int64_t label;  // column of the label, or none of the row's

  __device__ __forceinline__ float operator()(float x, int64_t column) const {
    const float p = __fmul_rn(factor, ExpOf<X>(x - top));
    return column == label ? p - scale : p;
  }
};

// As SoftmaxGradient. A block a row; every element is read and written by one thread, so that
// dlogits may be logits.
template <int kThreads, typename X, typename T>
__global__ __launch_bounds__(kThreads) void SoftmaxGradientKernel(
    const X* logits, const int32_t* labels, int64_t width, int64_t stride, int64_t first_row,
    int32_t no_label, const float* row_max, const float* row_sum, float scale, T* dlogits) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t n = blockIdx.x;
  const X* row = logits + n * stride;
  T* out = dlogits + n * stride;
  const bool labelled = labels[n] != no_label;
  const RowGradient<X> gradient = {row_max[n], scale / row_sum[n], scale, labels[n] - first_row};
  int64_t before = ElementsBeforePacks(out);
  if (before > width || !IsPackAligned(row + before)) before = width;
  const int64_t packs = (width - before) / kSize;
  for (int64_t i = threadIdx.x; i < packs; i += kThreads) {
    const int64_t column = before + i * kSize;
    float x[kSize] = {};
    if (labelled) {
      LoadFloats(row + column, x);
      for (int j = 0; j < kSize; ++j) x[j] = gradient(x[j], column + j);
    }
    StoreFloats(out + column, x);
  }
  for (int64_t j = threadIdx.x; j < width - packs * kSize; j += kThreads) {
    const int64_t column = j < before ? j : j + packs * kSize;
    out[column] = RoundTo<T>(labelled ? gradient(ToFloat(row[column]), column) : 0.0f);
  }
  for (int64_t column = width + threadIdx.x; column < stride; column += kThreads) {
    out[column] = RoundTo<T>(0.0f);
  }
}

inline constexpr int kCrossEntropyThreads = 512;

// As CrossEntropyInPlace. A block a row, whose packs are read twice: the second time they come from
// the cache. Rows are at multiples of 16 bytes.
template <int kThreads, typename T>
__global__ __launch_bounds__(kThreads) void CrossEntropyKernel(T* logits, int width, int64_t stride,
                                                               const int32_t* labels,
                                                               int32_t no_label, float scale,
                                                               float* losses) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t n = blockIdx.x;
  T* row = logits + n * stride;
  const int32_t label = labels[n];
  const bool labelled = label != no_label;
  const int packs = width / kSize, all = static_cast<int>(stride / kSize);
  const int rest = width % kSize;  // logits of pack `packs`
  RunningSoftmax<T> own;
  float x[kSize];
  for (int i = threadIdx.x; i < packs; i += kThreads) {
    LoadFloats(row + i * kSize, x);
    own.Add(x);
  }
  if (static_cast<int>(threadIdx.x) < rest) {
    const float last[1] = {ToFloat(row[packs * kSize + threadIdx.x])};
    own.Add(last);
  }
  const float target = labelled ? ToFloat(row[label]) : 0.0f;
  const auto [top, sum] = own.template OfBlock<kThreads>();
  if (threadIdx.x == 0) losses[n] = labelled ? LossOf(top, sum, target) : 0.0f;
  const float factor = scale / sum;
  const int label_pack = labelled ? label / kSize : -1;
  for (int i = threadIdx.x; i < all; i += kThreads) {
    LoadFloats(row + i * kSize, x);
    for (int j = 0; j < kSize; ++j) x[j] = __fmul_rn(factor, ExpOf<T>(x[j] - top));
    if (i == label_pack) {
      for (int j = 0; j < kSize; ++j) x[j] -= i * kSize + j == label ? scale : 0.0f;
    }
    // Not by a factor of zero: infinities become zeros, too.
    if (!labelled || i >= packs) {
      for (int j = 0; j < kSize; ++j) {
        if (!labelled || i * kSize + j >= width) x[j] = 0.0f;
      }
    }
    StoreFloats(row + i * kSize, x);
  }
}

}  // namespace trireme::gpu
