// The numbers of a step where its update reads them: in memory of the stream's device, so that a
// recorded step can be launched again with others.
#pragma once

#include <algorithm>
#include <span>

#include "worker/optimizer/adamw.h"
#include "worker/optimizer/adamw_factors.h"

namespace trireme {

struct StepNumbers {
  double norm;           // of all gradients
  int64_t t;             // the step's number, from 1
  AdamWFactors factors;  // of the step; FinishNorm sets `gradient`
};

// numbers->norm = root of the sum of the table, row i being entries row_ends[i - 1] ..
// row_ends[i] - 1: each row is summed in order, then the rows are. numbers->factors.gradient =
// min(1, clip_norm / (norm + 1e-6)), or 1 when clip_norm is 0. Memory of a GPU; the bits are those
// that the host gets.
void FinishNorm(Stream& stream, const double* table, const int64_t* row_ends, int64_t rows,
                double clip_norm, StepNumbers* numbers);

// AdamW and AdamWRounded with numbers of the device. GPUs alone.
void AdamW(Stream& stream, std::span<const AdamWSlice> slices, const StepNumbers* numbers);
void AdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices,
                  const StepNumbers* numbers, uint64_t seed);

// What FinishNorm makes of a norm.
inline double ClipFactor(double norm, double clip_norm) {
  return clip_norm > 0 ? std::min(1.0, clip_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace trireme
