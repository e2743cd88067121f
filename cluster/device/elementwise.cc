#include "cluster/device/elementwise.h"

#include <algorithm>

#include "cluster/device/cuda_device.h"

namespace trireme {
namespace {

constexpr int64_t kBlock = 1 << 16;  // elements a parallel block

template <typename F>
void Blocks(Stream& stream, int64_t n, const F& body) {
  stream.ParallelFor((n + kBlock - 1) / kBlock, [&](int64_t block) {
    body(block * kBlock, std::min(n, (block + 1) * kBlock));
  });
}

template <typename T>
void Add(T* out, const T* a, const T* b, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

}  // namespace

void AddInPlace(Stream& stream, float* target, const float* source, int64_t n) {
  if (stream.OnGpu("AddInPlace")) return cuda::AddInPlace(stream, target, source, n);
  Blocks(stream, n, [&](int64_t begin, int64_t end) {
    Add(target + begin, target + begin, source + begin, end - begin);
  });
}

void AddSerial(float* out, const float* a, const float* b, int64_t n) { Add(out, a, b, n); }
void AddSerial(double* out, const double* a, const double* b, int64_t n) { Add(out, a, b, n); }
void AddSerial(int64_t* out, const int64_t* a, const int64_t* b, int64_t n) { Add(out, a, b, n); }

void CastToBFloat16(Stream& stream, BFloat16* target, const float* source, int64_t n) {
  if (stream.OnGpu("CastToBFloat16")) return cuda::CastToBFloat16(stream, target, source, n);
  Blocks(stream, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) target[i] = ToBFloat16(source[i]);
  });
}

void CastToFloat(Stream& stream, float* target, const BFloat16* source, int64_t n) {
  if (stream.OnGpu("CastToFloat")) return cuda::CastToFloat(stream, target, source, n);
  Blocks(stream, n, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) target[i] = ToFloat(source[i]);
  });
}

}  // namespace trireme
