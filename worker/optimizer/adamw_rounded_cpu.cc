#include <algorithm>
#include <cstring>

#include "worker/kernels/dispatch.h"
#include "worker/kernels/vector.h"
#include "worker/optimizer/adamw.h"
#include "worker/optimizer/adamw_lanes.h"
#include "worker/optimizer/cuda_optimizer.h"
#include "worker/optimizer/rounding_lanes.h"
#include "worker/optimizer/step_numbers.h"

namespace trireme {
namespace {

constexpr int64_t kRoundedBlock = 1 << 13;  // elements a parallel block

void UpdateRounded(const AdamWRoundedSlice& s, int64_t begin, int64_t end, const AdamWFactors& f,
                   const uint16_t* random) {
  const float keep = s.decay ? f.keep : 1.0f;
  ForLanes(end - begin, [&](int64_t offset, auto count) {
    const int64_t i = begin + offset;
    const AdamWLanes next =
        UpdateLanes(f, keep, Load(s.gradient + i, count),
                    {Load(s.p + i, count), Load(s.m + i, count), Load(s.v + i, count)});
    Store(s.m_next + i, next.m, count);
    Store(s.v_next + i, next.v, count);
    const VecHalfBits rounded = RoundLanes(next.p, random + offset);
    std::memcpy(s.p_next + i, &rounded, count * sizeof(BFloat16));
  });
}

// Elements begin .. end, as far as random bits are made at once.
void UpdateRounded(const AdamWRoundedSlice& s, int64_t begin, int64_t end, const AdamWFactors& f,
                   uint64_t seed, int64_t t) {
  RandomHalves random;
  while (begin < end) {
    const int64_t element = s.first_element + begin, skipped = element % kElementsOfBlock;
    const int64_t stop = std::min(end, begin + kRoundingElements - skipped);
    FillRandomHalves(seed, t, element / kElementsOfBlock, &random);
    UpdateRounded(s, begin, stop, f, random.data() + skipped);
    begin = stop;
  }
}

}  // namespace

void AdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices, const AdamWStep& step,
                  uint64_t seed) {
  if (stream.OnGpu("AdamWRounded")) {
    return cuda::AdamWRounded(stream, slices, step, seed);
  }
  const AdamWFactors factors = AdamWFactorsOf(step);
  for (const AdamWRoundedSlice& slice : slices) {
    CHECK_GE(slice.first_element, 0);
    stream.ParallelFor(CeilDivide(slice.n, kRoundedBlock), [&](int64_t block) {
      const int64_t begin = block * kRoundedBlock;
      UpdateRounded(slice, begin, std::min(slice.n, begin + kRoundedBlock), factors, seed, step.t);
    });
  }
}

void AdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices,
                  const StepNumbers* numbers, uint64_t seed) {
  CHECK(stream.OnGpu("AdamWRounded")) << "numbers of a step on a GPU";
  cuda::AdamWRounded(stream, slices, numbers, seed);
}

}  // namespace trireme
