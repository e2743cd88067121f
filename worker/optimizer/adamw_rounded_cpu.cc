#include <algorithm>
#include <array>

#include "worker/kernels/dispatch.h"
#include "worker/kernels/vector.h"
#include "worker/optimizer/adamw.h"
#include "worker/optimizer/adamw_lanes.h"
#include "worker/optimizer/cuda_optimizer.h"
#include "worker/optimizer/step_numbers.h"
#include "worker/optimizer/stochastic_rounding.h"

namespace trireme {
namespace {

constexpr int64_t kRoundedBlock = 1 << 13;  // elements a parallel block

// The random bits of elements in ascending order, a block of them at a time.
class RandomBits {
 public:
  RandomBits(uint64_t seed, int64_t t) : seed_(seed), t_(t) {}
  uint32_t Of(int64_t element) {
    const int64_t block = element / kElementsOfBlock;
    if (block != block_) bits_ = RoundingBits(seed_, t_, block_ = block);
    return RoundingBitsOf(bits_, element % kElementsOfBlock);
  }

 private:
  uint64_t seed_;
  int64_t t_, block_ = -1;
  std::array<uint32_t, 4> bits_{};
};

void UpdateRounded(const AdamWRoundedSlice& s, int64_t begin, int64_t end, const AdamWFactors& f,
                   RandomBits random) {
  const float keep = s.decay ? f.keep : 1.0f;
  ForLanes(end - begin, [&](int64_t offset, auto count) {
    const int64_t i = begin + offset;
    const AdamWLanes next =
        UpdateLanes(f, keep, Load(s.gradient + i, count),
                    {Load(s.p + i, count), Load(s.m + i, count), Load(s.v + i, count)});
    Store(s.m_next + i, next.m, count);
    Store(s.v_next + i, next.v, count);
    for (int64_t j = 0; j < count; ++j) {
      s.p_next[i + j] = RoundStochastically(next.p[j], random.Of(s.first_element + i + j));
    }
  });
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
      UpdateRounded(slice, begin, std::min(slice.n, begin + kRoundedBlock), factors,
                    RandomBits(seed, step.t));
    });
  }
}

void AdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices,
                  const StepNumbers* numbers, uint64_t seed) {
  CHECK(stream.OnGpu("AdamWRounded")) << "numbers of a step on a GPU";
  cuda::AdamWRounded(stream, slices, numbers, seed);
}

}  // namespace trireme
