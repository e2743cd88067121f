#include "cluster/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>

namespace trireme {
namespace {

// Known answers of the Random123 distribution for philox4x32-10.
TEST(RngTest, PhiloxMatchesThePublishedVectors) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(Philox4x32({ones, ones, ones, ones}, {ones, ones}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RngTest, NormalHasMeanZeroAndVarianceOne) {
  const CounterRng rng(7, RngUse::kTest, 3);
  double sum = 0, squares = 0;
  const int n = 100000;
  for (int i = 0; i < n; ++i) {
    const double x = rng.Normal(i);
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / n, 0.0, 0.02);
  EXPECT_NEAR(squares / n, 1.0, 0.02);
}

TEST(RngTest, UsesAndStreamsDoNotShareValues) {
  const uint64_t value = CounterRng(1, RngUse::kInit, 5).Bits64(9);
  EXPECT_NE(value, CounterRng(1, RngUse::kDropout, 5).Bits64(9));
  EXPECT_NE(value, CounterRng(1, RngUse::kInit, 6).Bits64(9));
  EXPECT_NE(value, CounterRng(2, RngUse::kInit, 5).Bits64(9));
  EXPECT_EQ(value, CounterRng(1, RngUse::kInit, 5).Bits64(9));
}

}  // namespace
}  // namespace trireme
