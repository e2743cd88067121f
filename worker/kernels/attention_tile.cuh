// Inside of the attention kernels: heads as the device sees them, and tiles of rows in shared
// memory. B sequences, T positions, H heads, D head dim.
#pragma once

#include "cluster/device/cuda_language.cuh"
#include "worker/kernels/attention.h"

namespace trireme::gpu {

inline constexpr float kLog2E = 1.44269504f;
inline constexpr float kLn2 = 0.693147181f;

// Heads of one element type. packed: rows can be accessed in packs.
template <typename T>
struct HeadsOf {
  T* data;
  int64_t row_stride, length;
  int head_dim;
  bool packed;

  __device__ __forceinline__ T* Row(int64_t b, int64_t t, int64_t h) const {
    return data + (b * length + t) * row_stride + h * head_dim;
  }
};

template <typename T>
HeadsOf<T> ViewOf(const Heads& heads) {
  constexpr int64_t kSize = Pack<std::remove_const_t<T>>::kSize;
  const bool packed =
      IsPackAligned(heads.data) && heads.row_stride % kSize == 0 && heads.head_dim % kSize == 0;
  return {static_cast<T*>(heads.data), heads.row_stride, heads.length,
          static_cast<int>(heads.head_dim), packed};
}

// A tile in shared memory: rows of kD floats as packs, columns beyond the head dim zero. A row's
// packs are permuted by bits of the row's number above kShift, so that neighbouring threads, whose
// rows are 2^kShift apart, read one column from different banks.
template <int kD, int kShift>
struct TileLayout {
  static constexpr int kPacks = kD / 4;
  static __device__ __forceinline__ int Slot(int row, int pack) {
    return row * kPacks + (pack ^ ((row >> kShift) & 7));
  }
};
using SharedTile = SharedPointer<Pack<float>>;

// Pack `pack` (4 elements) of a row of global memory; zeros beyond head_dim.
template <typename T>
__device__ __forceinline__ Pack<float> LoadFour(const T* row, int pack, int head_dim) {
  Pack<float> x = {};
  for (int j = 0; j < 4; ++j) {
    if (pack * 4 + j < head_dim) x[j] = ToFloat(row[pack * 4 + j]);
  }
  return x;
}

// Fills a tile from rows of global memory; row_at(r) is null for rows that become zeros. All
// threads of the block must come; the caller synchronizes.
template <typename Layout, int kRows, int kThreads, typename T, typename RowAt>
__device__ __forceinline__ void LoadTile(const SharedTile& tile, const HeadsOf<const T>& heads,
                                         const RowAt& row_at) {
  constexpr int kSize = Pack<T>::kSize, kParts = kSize / 4;
  if (heads.packed) {
    constexpr int kWide = Layout::kPacks / kParts;  // accesses of a row
    for (int i = threadIdx.x; i < kRows * kWide; i += kThreads) {
      const int row = i / kWide, wide = i % kWide;
      const T* from = row_at(row);
      Pack<T> x = {};
      if (from != nullptr && wide * kSize < heads.head_dim) x = LoadPack(from + wide * kSize);
      for (int part = 0; part < kParts; ++part) {
        Pack<float> four;
        for (int j = 0; j < 4; ++j) four[j] = ToFloat(x[part * 4 + j]);
        tile[Layout::Slot(row, wide * kParts + part)] = four;
      }
    }
    return;
  }
  for (int i = threadIdx.x; i < kRows * Layout::kPacks; i += kThreads) {
    const int row = i / Layout::kPacks, pack = i % Layout::kPacks;
    const T* from = row_at(row);
    Pack<float> four = {};
    if (from != nullptr) four = LoadFour(from, pack, heads.head_dim);
    tile[Layout::Slot(row, pack)] = four;
  }
}

// The way back, rounded. row_at(r) is null for rows that are not stored.
template <typename Layout, int kRows, int kThreads, typename T, typename RowAt>
__device__ __forceinline__ void StoreTile(const SharedTile& tile, const HeadsOf<T>& heads,
                                          const RowAt& row_at) {
  constexpr int kSize = Pack<T>::kSize, kParts = kSize / 4;
  if (heads.packed) {
    constexpr int kWide = Layout::kPacks / kParts;
    for (int i = threadIdx.x; i < kRows * kWide; i += kThreads) {
      const int row = i / kWide, wide = i % kWide;
      T* to = row_at(row);
      if (to == nullptr || wide * kSize >= heads.head_dim) continue;
      Pack<T> x;
      for (int part = 0; part < kParts; ++part) {
        const Pack<float> four = tile[Layout::Slot(row, wide * kParts + part)];
        for (int j = 0; j < 4; ++j) x[part * 4 + j] = RoundTo<T>(four[j]);
      }
      StorePack(to + wide * kSize, x);
    }
    return;
  }
  for (int i = threadIdx.x; i < kRows * Layout::kPacks; i += kThreads) {
    const int row = i / Layout::kPacks, pack = i % Layout::kPacks;
    T* to = row_at(row);
    if (to == nullptr) continue;
    const Pack<float> four = tile[Layout::Slot(row, pack)];
    for (int j = 0; j < 4; ++j) {
      if (pack * 4 + j < heads.head_dim) to[pack * 4 + j] = RoundTo<T>(four[j]);
    }
  }
}

// out[i][j] += a[a_row + i] . b[b_row + j] over the head dim: kRows x 4 dot products.
template <typename LayoutA, typename LayoutB, int kRows>
__device__ __forceinline__ void AddDots(const SharedTile& a, int a_row, const SharedTile& b,
                                        int b_row, int packs, float (&out)[kRows][4]) {
  for (int pack = 0; pack < packs; ++pack) {
    Pack<float> y[4];
    for (int j = 0; j < 4; ++j) y[j] = b[LayoutB::Slot(b_row + j, pack)];
    for (int i = 0; i < kRows; ++i) {
      const Pack<float> x = a[LayoutA::Slot(a_row + i, pack)];
      for (int j = 0; j < 4; ++j) {
        for (int e = 0; e < 4; ++e) out[i][j] = fmaf(x[e], y[j][e], out[i][j]);
      }
    }
  }
}

// out[i] += sum over keys s of weights[row + i, s] x[s]: the thread's columns are packs column,
// column + kColumns, ... of x. weights: [rows, kColumns] packs along the keys, 4 kColumns keys.
template <typename Layout, int kRows, int kColumns, int kOutPacks>
__device__ __forceinline__ void AddWeighted(const SharedTile& weights, int row, const SharedTile& x,
                                            int column, Pack<float> (&out)[kRows][kOutPacks]) {
  for (int four = 0; four < kColumns; ++four) {
    Pack<float> w[kRows];
    for (int i = 0; i < kRows; ++i) w[i] = weights[(row + i) * kColumns + four];
    for (int s = 0; s < 4; ++s) {
      for (int j = 0; j < kOutPacks; ++j) {
        const Pack<float> value = x[Layout::Slot(four * 4 + s, column + j * kColumns)];
        for (int i = 0; i < kRows; ++i) {
          for (int e = 0; e < 4; ++e) out[i][j][e] = fmaf(w[i][s], value[e], out[i][j][e]);
        }
      }
    }
  }
}

}  // namespace trireme::gpu
