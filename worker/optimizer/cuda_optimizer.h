// The GPU forms of the operations of this folder; see worker/kernels/cuda_kernels.h.
#pragma once

#include "worker/optimizer/adamw.h"
#include "worker/optimizer/state_checksum.h"
#include "worker/optimizer/step_numbers.h"

namespace trireme::cuda {

void AdamW(Stream& stream, std::span<const AdamWSlice> slices, const AdamWStep& step);
void AdamW(Stream& stream, std::span<const AdamWSlice> slices, const StepNumbers* numbers);
void FinishNorm(Stream& stream, const double* table, const int64_t* row_ends, int64_t rows,
                double clip_norm, StepNumbers* numbers);
void AdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices, const AdamWStep& step,
                  uint64_t seed);
void AdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices,
                  const StepNumbers* numbers, uint64_t seed);
void SumsOfSquares(Stream& stream, const NormRange* ranges, int64_t count);

// state_checksum.h
uint64_t StateChecksum(Stream& stream, std::span<const ChecksumSlice> slices);

}  // namespace trireme::cuda
