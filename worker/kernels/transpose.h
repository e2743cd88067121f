// Transposing matrices in registers, sixteen by sixteen.
#pragma once

#include <algorithm>

#include "worker/kernels/vector.h"

namespace trireme {

namespace transpose_internal {

// Where lane & kStep is clear, rows keep their lanes; where it is set, they change them with the
// row kStep further.
template <int kStep>
void Exchange(Vec* rows) {
  VecInt low, high;
  for (int lane = 0; lane < kLanes; ++lane) {
    low[lane] = (lane & kStep) == 0 ? lane : kLanes + lane - kStep;
    high[lane] = (lane & kStep) == 0 ? lane + kStep : kLanes + lane;
  }
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kStep) != 0) continue;
    const Vec a = rows[i], b = rows[i + kStep];
    rows[i] = __builtin_shuffle(a, b, low);
    rows[i + kStep] = __builtin_shuffle(a, b, high);
  }
}

}  // namespace transpose_internal

// out[c, r] = in[r, c] for 16 x 16 floats.
inline void TransposeSquare(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  Vec rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = Load(in + i * in_stride, AllLanes{});
  transpose_internal::Exchange<8>(rows);
  transpose_internal::Exchange<4>(rows);
  transpose_internal::Exchange<2>(rows);
  transpose_internal::Exchange<1>(rows);
  for (int i = 0; i < kLanes; ++i) Store(out + i * out_stride, rows[i], AllLanes{});
}

// out[c, r] = in[r, c] for any element and any size.
template <typename T>
void TransposeRows(const T* in, int64_t in_stride, int64_t rows, int64_t columns, T* out,
                   int64_t out_stride) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t height = std::min(kLanes, rows - r);
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t width = std::min(kLanes, columns - c);
      const T* from = in + r * in_stride + c;
      T* to = out + c * out_stride + r;
      if constexpr (std::is_same_v<T, float>) {
        if (height == kLanes && width == kLanes) {
          TransposeSquare(from, in_stride, to, out_stride);
          continue;
        }
      }
      for (int64_t j = 0; j < width; ++j) {
        for (int64_t i = 0; i < height; ++i) to[j * out_stride + i] = from[i * in_stride + j];
      }
    }
  }
}

}  // namespace trireme
