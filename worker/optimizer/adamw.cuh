// Multi-tensor kernels of the optimizer: one launch takes many slices, a block a fixed number of
// elements of one slice. Arithmetic is spelled out, so that bits are those of the CPU.
#pragma once

#include <array>

#include "cluster/device/cuda_language.cuh"
#include "worker/kernels/sum_f64.cuh"
#include "worker/optimizer/adamw.h"
#include "worker/optimizer/adamw_factors.h"
#include "worker/optimizer/state_checksum.h"
#include "worker/optimizer/step_numbers.h"
#include "worker/optimizer/stochastic_rounding.h"

namespace trireme::gpu {

inline constexpr int kUpdateThreads = 256;
inline constexpr int kUpdateElements = 1 << 13;    // of a block
inline constexpr int kChecksumElements = 1 << 14;  // of a block

// Slices of one launch, passed by value as a kernel's argument.
template <typename Slice>
struct SliceTable {
  static constexpr int kSlices = 48;
  Slice slices[kSlices];
  unsigned first_block[kSlices + 1];  // of the grid; the last is the grid's size
  bool packed[kSlices];               // every pointer is aligned for packs
  int count = 0;
};

// The slice that the block works on.
template <typename Slice>
__device__ __forceinline__ int SliceOfBlock(const SliceTable<Slice>& table) {
  int low = 0, high = table.count;  // first_block[low] <= blockIdx.x < first_block[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (table.first_block[middle] <= blockIdx.x) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// One element's state, replaced by the next. CUDA and g++ both take these words as they stand: no
// product is fused but by fmaf.
__device__ __forceinline__ void UpdateElement(const AdamWFactors& f, float keep, float gradient,
                                              float& p, float& m, float& v) {
  const float g = __fmul_rn(gradient, f.gradient);
  m = fmaf(m, f.m_keep, __fmul_rn(g, f.m_new));
  v = fmaf(v, f.v_keep, __fmul_rn(__fmul_rn(g, g), f.v_new));
  const float root = fmaf(__fsqrt_rn(v), f.root_inverse, f.eps);
  p = fmaf(__fdiv_rn(m, root), -f.rate, __fmul_rn(p, keep));
}

// Four consecutive elements: a warp's are side by side, 512 bytes an access.
struct FourOfState {
  Pack<float> gradient, p, m, v;

  __device__ __forceinline__ void Load(const AdamWSlice& s, int64_t i) {
    gradient = LoadPack(s.gradient + i);
    p = LoadPack(s.p + i);
    m = LoadPack(s.m + i);
    v = LoadPack(s.v + i);
  }
  __device__ __forceinline__ void UpdateAndStore(const AdamWSlice& s, int64_t i,
                                                 const AdamWFactors& f, float keep) {
    for (int j = 0; j < Pack<float>::kSize; ++j) {
      UpdateElement(f, keep, gradient[j], p[j], m[j], v[j]);
    }
    StorePack(s.p_next + i, p);
    StorePack(s.m_next + i, m);
    StorePack(s.v_next + i, v);
    if (s.p_compute != nullptr) StoreFour(s.p_compute + i, p.values);
  }
};

// A step's numbers as arguments of a launch, and where the device has them.
struct GivenNumbers {
  AdamWFactors factors;
  int64_t t;
  __device__ __forceinline__ const AdamWFactors& Factors() const { return factors; }
  __device__ __forceinline__ int64_t Step() const { return t; }
};
struct NumbersOnDevice {
  const StepNumbers* numbers;
  __device__ __forceinline__ AdamWFactors Factors() const { return numbers->factors; }
  __device__ __forceinline__ int64_t Step() const { return numbers->t; }
};

// As AdamW. Twice four elements a thread at a time where they come in packs.
template <int kThreads, typename Numbers>
__global__ __launch_bounds__(kThreads) void AdamWKernel(const SliceTable<AdamWSlice> table,
                                                        const Numbers numbers) {
  const AdamWFactors f = numbers.Factors();
  constexpr int kStep = Pack<float>::kSize;
  const int index = SliceOfBlock(table);
  const AdamWSlice& s = table.slices[index];
  const float keep = s.decay ? f.keep : 1.0f;
  const int64_t begin =
      static_cast<int64_t>(blockIdx.x - table.first_block[index]) * kUpdateElements;
  const int64_t end = min(s.n, begin + kUpdateElements);
  const int64_t packed_end = table.packed[index] ? end - (end - begin) % kStep : begin;
  for (int64_t i = begin + threadIdx.x * kStep; i < packed_end; i += 2 * kThreads * kStep) {
    const int64_t second = i + kThreads * kStep;
    FourOfState a, b;
    a.Load(s, i);
    if (second < packed_end) b.Load(s, second);
    a.UpdateAndStore(s, i, f, keep);
    if (second < packed_end) b.UpdateAndStore(s, second, f, keep);
  }
  for (int64_t i = packed_end + threadIdx.x; i < end; i += kThreads) {
    float p = s.p[i], m = s.m[i], v = s.v[i];
    UpdateElement(f, keep, s.gradient[i], p, m, v);
    s.p_next[i] = p;
    s.m_next[i] = m;
    s.v_next[i] = v;
    if (s.p_compute != nullptr) s.p_compute[i] = RoundTo<BFloat16>(p);
  }
}

__device__ __forceinline__ void UpdateRoundedHalf(const AdamWRoundedSlice& s, int64_t i,
                                                  const AdamWFactors& f, float keep, float* p) {
  const Pack<float> gradient = LoadPack(s.gradient + i);
  Pack<float> m = LoadPack(s.m + i), v = LoadPack(s.v + i);
  for (int j = 0; j < Pack<float>::kSize; ++j) {
    UpdateElement(f, keep, gradient[j], p[j], m[j], v[j]);
  }
  StorePack(s.m_next + i, m);
  StorePack(s.v_next + i, v);
}

// As AdamWRounded. A packed slice begins at a multiple of eight elements of the model, so that a
// pack of bf16 is one block of random bits.
template <int kThreads, typename Numbers>
__global__ __launch_bounds__(kThreads) void AdamWRoundedKernel(
    const SliceTable<AdamWRoundedSlice> table, const Numbers numbers, uint64_t seed) {
  const AdamWFactors f = numbers.Factors();
  const int64_t t = numbers.Step();
  constexpr int kStep = Pack<BFloat16>::kSize;
  static_assert(kStep == kElementsOfBlock);
  const int index = SliceOfBlock(table);
  const AdamWRoundedSlice& s = table.slices[index];
  const float keep = s.decay ? f.keep : 1.0f;
  const int64_t begin =
      static_cast<int64_t>(blockIdx.x - table.first_block[index]) * kUpdateElements;
  const int64_t end = min(s.n, begin + kUpdateElements);
  const int64_t packed_end = table.packed[index] ? end - (end - begin) % kStep : begin;
  for (int64_t i = begin + threadIdx.x * kStep; i < packed_end; i += kThreads * kStep) {
    Pack<BFloat16> rounded = LoadPack(s.p + i);
    float p[kStep];
    for (int j = 0; j < kStep; ++j) p[j] = ToFloat(rounded[j]);
    UpdateRoundedHalf(s, i, f, keep, p);
    UpdateRoundedHalf(s, i + kStep / 2, f, keep, p + kStep / 2);
    const auto bits = RoundingBits(seed, t, (s.first_element + i) / kElementsOfBlock);
    for (int j = 0; j < kStep; ++j) {
      rounded[j] = RoundStochastically(p[j], RoundingBitsOf(bits, j));
    }
    StorePack(s.p_next + i, rounded);
  }
  for (int64_t i = packed_end + threadIdx.x; i < end; i += kThreads) {
    float p = ToFloat(s.p[i]), m = s.m[i], v = s.v[i];
    UpdateElement(f, keep, s.gradient[i], p, m, v);
    const int64_t element = s.first_element + i;
    const auto bits = RoundingBits(seed, t, element / kElementsOfBlock);
    s.p_next[i] = RoundStochastically(p, RoundingBitsOf(bits, element % kElementsOfBlock));
    s.m_next[i] = m;
    s.v_next[i] = v;
  }
}

inline constexpr int kSquaresThreads = 512;

// A block a range.
template <int kThreads>
__global__ __launch_bounds__(kThreads) void SumsOfSquaresKernel(const NormRange* ranges) {
  const NormRange range = ranges[blockIdx.x];
  const double sum = BlockSumF64<kThreads>(InGlobalMemory(range.x), range.elements,
                                           [](double value) { return value * value; });
  if (threadIdx.x == 0) *range.sum = sum;
}

// Elements of one tensor by their bits.
struct BitSlice {
  const void* data;
  int64_t n, first_element;
  int element_bytes;
};

template <typename Bits, int kThreads>
__device__ __forceinline__ uint64_t ThreadChecksum(const BitSlice& s, int64_t begin, int64_t end,
                                                   bool packed) {
  constexpr int kSize = Pack<Bits>::kSize;
  const Bits* bits = static_cast<const Bits*>(s.data);
  const int64_t packed_end = packed ? end - (end - begin) % kSize : begin;
  uint64_t sum = 0;
  for (int64_t i = begin + threadIdx.x * kSize; i < packed_end; i += kThreads * kSize) {
    const Pack<Bits> pack = LoadPack(bits + i);
    for (int j = 0; j < kSize; ++j) sum += MixedElement(pack[j], s.first_element + i + j);
  }
  for (int64_t i = packed_end + threadIdx.x; i < end; i += kThreads) {
    sum += MixedElement(bits[i], s.first_element + i);
  }
  return sum;
}

// As StateChecksum: sums[block], to be added up in any order.
template <int kThreads>
__global__ __launch_bounds__(kThreads) void StateChecksumKernel(const SliceTable<BitSlice> table,
                                                                uint64_t* sums) {
  const int index = SliceOfBlock(table);
  const BitSlice& s = table.slices[index];
  const int64_t begin =
      static_cast<int64_t>(blockIdx.x - table.first_block[index]) * kChecksumElements;
  const int64_t end = min(s.n, begin + kChecksumElements);
  uint64_t sum = 0;
  if (s.element_bytes == 2) {
    sum = ThreadChecksum<uint16_t, kThreads>(s, begin, end, table.packed[index]);
  } else if (s.element_bytes == 4) {
    sum = ThreadChecksum<uint32_t, kThreads>(s, begin, end, table.packed[index]);
  } else {
    sum = ThreadChecksum<uint64_t, kThreads>(s, begin, end, table.packed[index]);
  }
  sum = BlockSum<kThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// As FinishNorm, by one block: a thread sums whole rows, the first one adds them. `row_sums`:
// scratch.
template <int kThreads>
__global__ __launch_bounds__(kThreads) void FinishNormKernel(const double* table,
                                                             const int64_t* row_ends, int64_t rows,
                                                             double clip_norm, double* row_sums,
                                                             StepNumbers* numbers) {
  for (int64_t row = threadIdx.x; row < rows; row += kThreads) {
    double sum = 0;
    for (int64_t i = row == 0 ? 0 : row_ends[row - 1]; i < row_ends[row]; ++i) sum += table[i];
    row_sums[row] = sum;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (int64_t row = 0; row < rows; ++row) total += row_sums[row];
  const double norm = sqrt(total);
  numbers->norm = norm;
  const double clip = clip_norm > 0 ? clip_norm / (norm + 1e-6) : 1.0;
  // As std::min(1.0, clip), which is 1 where clip is not a number.
  numbers->factors.gradient = static_cast<float>(clip < 1.0 ? clip : 1.0);
}

}  // namespace trireme::gpu
