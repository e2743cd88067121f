#include <algorithm>
#include <cmath>
#include <vector>

#include "worker/kernels/dispatch.h"
#include "worker/optimizer/adamw.h"
#include "worker/optimizer/adamw_factors.h"
#include "worker/optimizer/cuda_optimizer.h"
#include "worker/optimizer/stochastic_rounding.h"

namespace trireme {
namespace {

constexpr int64_t kBlock = 1 << 13;  // elements a parallel block

void Update(const AdamWRoundedSlice& s, int64_t begin, int64_t end, const AdamWFactors& f,
            uint64_t seed, int64_t t) {
  const float keep = s.decay ? f.keep : 1.0f;
  std::array<uint32_t, 4> bits{};
  int64_t bits_of = -1;
  for (int64_t i = begin; i < end; ++i) {
    const float g = s.gradient[i] * f.gradient;
    const float m = std::fma(s.m[i], f.m_keep, g * f.m_new);
    const float v = std::fma(s.v[i], f.v_keep, g * g * f.v_new);
    const float root = std::fma(std::sqrt(v), f.root_inverse, f.eps);
    const float p = std::fma(m / root, -f.rate, ToFloat(s.p[i]) * keep);
    const int64_t element = s.first_element + i, block = element / kElementsOfBlock;
    if (block != bits_of) bits = RoundingBits(seed, t, bits_of = block);
    s.m_next[i] = m;
    s.v_next[i] = v;
    s.p_next[i] = RoundStochastically(p, RoundingBitsOf(bits, element % kElementsOfBlock));
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
    stream.ParallelFor(CeilDivide(slice.n, kBlock), [&](int64_t block) {
      const int64_t begin = block * kBlock;
      Update(slice, begin, std::min(slice.n, begin + kBlock), factors, seed, step.t);
    });
  }
}

}  // namespace trireme
