// Sums over rows in fixed blocks, folded in ascending order: gradients of vectors that all rows
// share.
#pragma once

#include <algorithm>
#include <vector>

#include "cluster/device/stream.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/vector.h"

namespace trireme {

// Rows a block. Enough blocks for the threads of a host at a microbatch of a few thousand tokens.
inline constexpr int64_t kSumRows = 64;

// Calls block(begin, end, partial) for each block of rows, partial being zeroed f32 [width], then
// adds the partials to `out` [width] in ascending order (out zeroed first unless `accumulate`).
template <typename Block>
void SumOverRows(Stream& stream, int64_t rows, int64_t width, float* out, bool accumulate,
                 const Block& block) {
  const int64_t blocks = CeilDivide(rows, kSumRows);
  std::vector<float> partials(blocks * width);
  stream.ParallelFor(blocks, [&](int64_t b) {
    block(b * kSumRows, std::min(rows, (b + 1) * kSumRows), partials.data() + b * width);
  });
  ForLanes(width, [&](int64_t i, auto count) {
    Vec sum{};
    for (int64_t b = 0; b < blocks; ++b) sum += Load(partials.data() + b * width + i, count);
    if (accumulate) sum = Load(out + i, count) + sum;
    Store(out + i, sum, count);
  });
}

}  // namespace trireme
