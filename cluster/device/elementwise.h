// Element-wise adds and casts: what communication needs of a device. Model math is in
// worker/kernels.
#pragma once

#include "cluster/device/stream.h"

namespace trireme {

// target[i] += source[i] in f32. [n] both.
void AddInPlace(Stream& stream, float* target, const float* source, int64_t n);
// out[i] = a[i] + b[i] in f32; `out` may be `a` or `b`. Runs on the calling thread: for progress
// threads that have no stream.
void AddSerial(float* out, const float* a, const float* b, int64_t n);
void AddSerial(double* out, const double* a, const double* b, int64_t n);
void AddSerial(int64_t* out, const int64_t* a, const int64_t* b, int64_t n);
// Rounds half to even.
void CastToBFloat16(Stream& stream, BFloat16* target, const float* source, int64_t n);
void CastToFloat(Stream& stream, float* target, const BFloat16* source, int64_t n);

}  // namespace trireme
