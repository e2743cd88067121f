#include "cluster/device/ordered_sum.h"

#include <gtest/gtest.h>

#include <vector>

namespace trireme {
namespace {

TEST(SumInOrderTest, AddsAsTheStackSays) {
  // 1e8 swallows a 1 that comes alone: the order shows.
  const std::vector<float> a = {1e8f}, b = {3.0f}, c = {-1e8f}, d = {3.0f};
  const std::vector<const void*> inputs = {a.data(), b.data(), c.data(), d.data()};
  Stream stream(1);
  float out = 0;
  const std::vector<uint8_t> pairs = {0, 1, 0, 2};  // (a + b) + (c + d)
  SumInOrder(stream, DType::kF32, SumOrder(pairs), inputs, &out, 1);
  EXPECT_EQ(out, (1e8f + 3.0f) + (-1e8f + 3.0f));
  const std::vector<uint8_t> chain = {0, 1, 1, 1};  // ((a + b) + c) + d
  SumInOrder(stream, DType::kF32, SumOrder(chain), inputs, &out, 1);
  EXPECT_EQ(out, ((1e8f + 3.0f) + -1e8f) + 3.0f);
  const std::vector<uint8_t> right = {0, 0, 0, 3};  // a + (b + (c + d))
  SumInOrder(stream, DType::kF32, SumOrder(right), inputs, &out, 1);
  EXPECT_EQ(out, 1e8f + (3.0f + (-1e8f + 3.0f)));
}

TEST(SumInOrderTest, OutMayBeAnyInput) {
  for (int target = 0; target < 3; ++target) {
    std::vector<std::vector<int64_t>> values = {{1, 2, 3}, {10, 20, 30}, {100, 200, 300}};
    const std::vector<const void*> inputs = {values[0].data(), values[1].data(), values[2].data()};
    const std::vector<uint8_t> order = {0, 1, 1};
    Stream stream(1);
    SumInOrder(stream, DType::kI64, SumOrder(order), inputs, values[target].data(), 3);
    EXPECT_EQ(values[target], (std::vector<int64_t>{111, 222, 333}));
  }
}

TEST(SumInOrderDeathTest, AnOrderThatLeavesSomethingOutIsRefused) {
  EXPECT_DEATH(SumOrder(std::vector<uint8_t>{0, 0}), "leaves something out");
  EXPECT_DEATH(SumOrder(std::vector<uint8_t>{1, 0}), "adds more than it has");
}

}  // namespace
}  // namespace trireme
