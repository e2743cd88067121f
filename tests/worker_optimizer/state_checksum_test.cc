#include "worker/optimizer/state_checksum.h"

#include <gtest/gtest.h>

#include <random>
#include <utility>
#include <vector>

namespace trireme {
namespace {

std::vector<float> Random(int64_t n) {
  std::mt19937 bits(3);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> x(n);
  for (float& v : x) v = uniform(bits);
  return x;
}

uint64_t Sum(std::vector<float>& x) {
  Stream stream(1);
  const ChecksumSlice slice = {Tensor(x.data(), DType::kF32, {static_cast<int64_t>(x.size())}), 10};
  return StateChecksum(stream, {&slice, 1});
}

TEST(StateChecksumTest, PartsInAnyOrderAndOnAnyThreadsAddUpToTheWhole) {
  std::vector<float> x = Random(100003);
  const uint64_t whole = Sum(x);
  for (int threads = 1; threads <= 3; ++threads) {
    Stream stream(threads);
    const std::vector<ChecksumSlice> parts = {
        {Tensor(x.data() + 70001, DType::kF32, {30002}), 10 + 70001},
        {Tensor(x.data(), DType::kF32, {70000}), 10},
        {Tensor(x.data() + 5, DType::kF32, {0}), 999},
        {Tensor(x.data() + 70000, DType::kF32, {1}), 10 + 70000}};
    EXPECT_EQ(StateChecksum(stream, parts), whole) << threads;
  }
}

TEST(StateChecksumTest, SeesAFlippedBitAnExchangeAndAShift) {
  std::vector<float> x = Random(5000);
  const uint64_t before = Sum(x);
  for (int bit = 0; bit < 32; ++bit) {
    uint32_t* word = reinterpret_cast<uint32_t*>(x.data() + 77 * bit);
    *word ^= 1u << bit;
    EXPECT_NE(Sum(x), before) << bit;
    *word ^= 1u << bit;
  }
  std::swap(x[1], x[4001]);
  EXPECT_NE(Sum(x), before);
  std::swap(x[1], x[4001]);
  EXPECT_EQ(Sum(x), before);
  std::vector<float> shifted(x.begin() + 1, x.end());
  shifted.push_back(x[0]);
  EXPECT_NE(Sum(shifted), before);
  // Zeros count too: missing elements are seen.
  shifted = x;
  shifted.push_back(0);
  EXPECT_NE(Sum(shifted), before);
}

TEST(StateChecksumTest, TakesEveryElementSize) {
  Stream stream(2);
  const uint16_t two[] = {1, 0xffff};
  const uint64_t eight[] = {~uint64_t{0}, 4};
  const ChecksumSlice halves = {Tensor(const_cast<uint16_t*>(two), DType::kBF16, {2}), 5};
  const ChecksumSlice doubles = {Tensor(const_cast<uint64_t*>(eight), DType::kF64, {2}), 5};
  EXPECT_EQ(StateChecksum(stream, {&halves, 1}), MixedElement(1, 5) + MixedElement(0xffff, 6));
  EXPECT_EQ(StateChecksum(stream, {&doubles, 1}),
            MixedElement(~uint64_t{0}, 5) + MixedElement(4, 6));
}

}  // namespace
}  // namespace trireme
