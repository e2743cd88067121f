#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "worker/optimizer/adamw.h"
#include "worker/optimizer/stochastic_rounding.h"

namespace trireme {
namespace {

constexpr int64_t kRoundedElements = 20011;
const AdamWStep kRoundedStep = {3e-3, 0.9, 0.95, 1e-8, 0.1, 7, 0.25};

std::vector<float> Random(uint32_t seed, float low, float high) {
  std::mt19937 bits(seed);
  std::uniform_real_distribution<float> uniform(low, high);
  std::vector<float> x(kRoundedElements);
  for (float& v : x) v = uniform(bits);
  return x;
}

struct RoundedState {
  std::vector<BFloat16> p = std::vector<BFloat16>(kRoundedElements);
  std::vector<float> m = Random(2, -1, 1), v = Random(3, 0, 1);
  RoundedState() {
    const std::vector<float> start = Random(1, -1, 1);
    for (int64_t i = 0; i < kRoundedElements; ++i) p[i] = ToBFloat16(start[i]);
  }
};

AdamWRoundedSlice Slice(const std::vector<float>& gradient, const RoundedState& from,
                        RoundedState* to, int64_t begin, int64_t end) {
  return {gradient.data() + begin,
          from.p.data() + begin,
          from.m.data() + begin,
          from.v.data() + begin,
          to->p.data() + begin,
          to->m.data() + begin,
          to->v.data() + begin,
          end - begin,
          1000 + begin,
          true};
}

bool SameBits(const std::vector<BFloat16>& a, const std::vector<BFloat16>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].bits != b[i].bits) return false;
  }
  return a.size() == b.size();
}

TEST(StochasticRoundingTest, ExpectationIsTheValue) {
  for (const float x : {1.0f + 3.0f / 1024, -2.7182817f, 1e-3f, 1e-40f}) {
    double sum = 0;
    for (uint32_t random = 0; random < 65536; ++random) {
      sum += ToFloat(RoundStochastically(x, random));
    }
    EXPECT_NEAR(sum / 65536, x, 1e-12 * std::abs(x)) << x;
  }
}

TEST(StochasticRoundingTest, ValuesThatNeedNoRoundingStay) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const float x : {0.0f, -0.0f, 1.5f, -384.0f, inf, -inf}) {
    EXPECT_EQ(RoundStochastically(x, 0xffff).bits, ToBFloat16(x).bits) << x;
  }
  EXPECT_TRUE(std::isnan(ToFloat(RoundStochastically(std::bit_cast<float>(0x7f800001u), 0xffff))));
  EXPECT_TRUE(std::isnan(ToFloat(RoundStochastically(std::bit_cast<float>(0xffffffffu), 0xffff))));
}

TEST(AdamWRoundedTest, IsAdamWRoundedToANeighbour) {
  const RoundedState start;
  const std::vector<float> gradient = Random(4, -1, 1);
  std::vector<float> p(kRoundedElements), p_next(kRoundedElements), m(kRoundedElements),
      v(kRoundedElements);
  for (int64_t i = 0; i < kRoundedElements; ++i) p[i] = ToFloat(start.p[i]);
  Stream stream(2);
  RoundedState next;
  const AdamWSlice exact = {gradient.data(),  p.data(), start.m.data(), start.v.data(),
                            p_next.data(),    m.data(), v.data(),       nullptr,
                            kRoundedElements, true};
  AdamW(stream, {&exact, 1}, kRoundedStep);
  const AdamWRoundedSlice slice = Slice(gradient, start, &next, 0, kRoundedElements);
  AdamWRounded(stream, {&slice, 1}, kRoundedStep, 5);
  EXPECT_EQ(next.m, m);
  EXPECT_EQ(next.v, v);
  int64_t up = 0, inexact = 0;
  for (int64_t i = 0; i < kRoundedElements; ++i) {
    const uint32_t below = std::bit_cast<uint32_t>(p_next[i]) >> 16;  // towards zero
    const int64_t element = slice.first_element + i;
    const uint32_t random =
        RoundingBitsOf(RoundingBits(5, kRoundedStep.t, element / 8), element % 8);
    ASSERT_EQ(next.p[i].bits, RoundStochastically(p_next[i], random).bits) << i;
    inexact += (std::bit_cast<uint32_t>(p_next[i]) & 0xffff) != 0;
    up += next.p[i].bits != below;
  }
  // Dropped bits are uniform here, so half of the values are rounded away from zero.
  EXPECT_NEAR(static_cast<double>(up) / inexact, 0.5, 0.02);
}

TEST(AdamWRoundedTest, BitsDoNotDependOnCutsThreadsOrPlaceButOnSeedAndStep) {
  const RoundedState start;
  const std::vector<float> gradient = Random(4, -1, 1);
  Stream one(1);
  RoundedState whole;
  const AdamWRoundedSlice all = Slice(gradient, start, &whole, 0, kRoundedElements);
  AdamWRounded(one, {&all, 1}, kRoundedStep, 5);
  for (int threads = 1; threads <= 3; ++threads) {
    Stream stream(threads);
    RoundedState own = start;
    std::vector<AdamWRoundedSlice> slices;
    const int64_t edges[] = {0, 1, 18, 8195, 8195, kRoundedElements};
    for (int i = 0; i + 1 < 6; ++i) {
      slices.push_back(Slice(gradient, own, &own, edges[i], edges[i + 1]));
    }
    AdamWRounded(stream, slices, kRoundedStep, 5);
    EXPECT_TRUE(SameBits(own.p, whole.p)) << threads;
  }
  RoundedState other;
  const AdamWRoundedSlice again = Slice(gradient, start, &other, 0, kRoundedElements);
  AdamWRounded(one, {&again, 1}, kRoundedStep, 6);
  EXPECT_FALSE(SameBits(other.p, whole.p));
}

TEST(AdamWRoundedTest, BlocksAreNumberedBeyond32BitsAndNumbersThatAreNoneStaySo) {
  constexpr int64_t kCount = 300;
  // Elements whose blocks' numbers pass 2^32 on the way.
  constexpr int64_t kFirst = (int64_t{1} << 35) - 101;
  std::vector<float> gradient = Random(4, -1, 1), m(kCount, 0.0f), v(kCount, 0.0f);
  gradient[7] = std::numeric_limits<float>::quiet_NaN();
  std::vector<BFloat16> p(kCount, ToBFloat16(1.0f)), next(kCount);
  const AdamWRoundedSlice slice = {gradient.data(), p.data(), m.data(), v.data(), next.data(),
                                   m.data(),        v.data(), kCount,   kFirst,   false};
  std::vector<float> exact_p(kCount, 1.0f), exact(kCount), zeros(kCount, 0.0f), none(kCount);
  const AdamWSlice in_f32 = {gradient.data(), exact_p.data(), zeros.data(), zeros.data(),
                             exact.data(),    none.data(),    none.data(),  nullptr,
                             kCount,          false};
  Stream stream(1);
  AdamWRounded(stream, {&slice, 1}, kRoundedStep, 5);
  AdamW(stream, {&in_f32, 1}, kRoundedStep);
  for (int64_t i = 0; i < kCount; ++i) {
    const int64_t element = kFirst + i;
    const uint32_t random =
        RoundingBitsOf(RoundingBits(5, kRoundedStep.t, element / 8), element % 8);
    ASSERT_EQ(next[i].bits, RoundStochastically(exact[i], random).bits) << i;
  }
  EXPECT_TRUE(std::isnan(ToFloat(next[7])));
}

TEST(AdamWRoundedTest, SmallStepsAreNotLost) {
  // An update of 1/16 of the distance between neighbours: rounding to nearest would never move.
  constexpr int64_t kCount = 4096;
  std::vector<float> gradient(kCount, 1.0f), m(kCount, 0.0f), v(kCount, 0.0f);
  std::vector<BFloat16> p(kCount, ToBFloat16(1.0f));
  Stream stream(1);
  for (int64_t t = 1; t <= 64; ++t) {
    const AdamWRoundedSlice slice = {gradient.data(), p.data(), m.data(), v.data(), p.data(),
                                     m.data(),        v.data(), kCount,   0,        false};
    AdamWRounded(stream, {&slice, 1}, {1.0 / 4096, 0.9, 0.95, 1e-8, 0, t, 1.0}, 9);
  }
  double mean = 0;
  for (const BFloat16 x : p) mean += ToFloat(x) / kCount;
  EXPECT_NEAR(mean, 1 - 64.0 / 4096, 5e-4);
}

}  // namespace
}  // namespace trireme
