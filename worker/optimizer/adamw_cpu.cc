#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/kernels/dispatch.h"
#include "worker/kernels/vector.h"
#include "worker/optimizer/adamw.h"
#include "worker/optimizer/adamw_lanes.h"
#include "worker/optimizer/cuda_optimizer.h"
#include "worker/optimizer/step_numbers.h"

namespace trireme {
namespace {

constexpr int64_t kBlock = 1 << 14;  // elements a parallel block

// Past the caches where `kStream`: what is written here is not read again before everything else
// has been, and a plain store would first read the line that it overwrites.
template <bool kStream, typename Count>
void Write(float* p, Vec x, Count count) {
#if defined(__AVX512F__)
  if constexpr (kStream && std::is_same_v<Count, AllLanes>) {
    return _mm512_stream_ps(p, reinterpret_cast<__m512>(x));
  }
#endif
  Store(p, x, count);
}

bool CanStream(const AdamWSlice& s) {
  const auto apart = [](const float* from, const float* to) {
    return from != to && reinterpret_cast<uintptr_t>(to) % 64 == 0;
  };
  return apart(s.p, s.p_next) && apart(s.m, s.m_next) && apart(s.v, s.v_next);
}

template <bool kStream>
void Update(const AdamWSlice& s, int64_t begin, int64_t end, const AdamWFactors& f) {
  const float keep = s.decay ? f.keep : 1.0f;
  ForLanes(end - begin, [&](int64_t offset, auto count) {
    const int64_t i = begin + offset;
    const AdamWLanes next =
        UpdateLanes(f, keep, Load(s.gradient + i, count),
                    {Load(s.p + i, count), Load(s.m + i, count), Load(s.v + i, count)});
    Write<kStream>(s.m_next + i, next.m, count);
    Write<kStream>(s.v_next + i, next.v, count);
    Write<kStream>(s.p_next + i, next.p, count);
    if (s.p_compute != nullptr) Store(s.p_compute + i, next.p, count);
  });
  if (kStream) _mm_sfence();
}

double SumOfSquares(const float* x, int64_t n) {
  constexpr int64_t kDoubles = 8;
  using Doubles = double __attribute__((vector_size(64)));
  using HalfVec = float __attribute__((vector_size(32)));
  Doubles sum[2] = {};
  ForLanes(n, [&](int64_t i, auto count) {
    const Vec v = Load(x + i, count);
    HalfVec halves[2];
    std::memcpy(halves, &v, sizeof(v));
    for (int half = 0; half < 2; ++half) {
      const Doubles wide = __builtin_convertvector(halves[half], Doubles);
      sum[half] += wide * wide;
    }
  });
  Doubles both = sum[0] + sum[1];
  for (int width = kDoubles / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) both[j] += both[j + width];
  }
  return both[0];
}

}  // namespace

void AdamW(Stream& stream, std::span<const AdamWSlice> slices, const AdamWStep& step) {
  if (stream.OnGpu("AdamW")) {
    return cuda::AdamW(stream, slices, step);
  }
  const AdamWFactors factors = AdamWFactorsOf(step);
  // first[s]: the number of blocks before slice s.
  std::vector<int64_t> first(slices.size() + 1, 0);
  for (size_t s = 0; s < slices.size(); ++s) {
    first[s + 1] = first[s] + CeilDivide(slices[s].n, kBlock);
  }
  stream.ParallelFor(first.back(), [&](int64_t task) {
    const size_t s = std::upper_bound(first.begin(), first.end(), task) - first.begin() - 1;
    const int64_t begin = (task - first[s]) * kBlock;
    const int64_t end = std::min(slices[s].n, begin + kBlock);
    if (CanStream(slices[s])) {
      Update<true>(slices[s], begin, end, factors);
    } else {
      Update<false>(slices[s], begin, end, factors);
    }
  });
}

void AdamW(Stream& stream, std::span<const AdamWSlice> slices, const StepNumbers* numbers) {
  CHECK(stream.OnGpu("AdamW")) << "numbers of a step on a GPU";
  cuda::AdamW(stream, slices, numbers);
}

void FinishNorm(Stream& stream, const double* table, const int64_t* row_ends, int64_t rows,
                double clip_norm, StepNumbers* numbers) {
  CHECK(stream.OnGpu("FinishNorm")) << "numbers of a step on a GPU";
  cuda::FinishNorm(stream, table, row_ends, rows, clip_norm, numbers);
}

void SumsOfSquares(Stream& stream, const NormRange* ranges, int64_t count) {
  if (stream.OnGpu("SumsOfSquares")) return cuda::SumsOfSquares(stream, ranges, count);
  if (count == 0) return;
  stream.ParallelFor(
      count, [&](int64_t i) { *ranges[i].sum = SumOfSquares(ranges[i].x, ranges[i].elements); });
}

}  // namespace trireme
