#include "cluster/device/operation_times.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "cluster/device/buffer.h"

namespace trireme {
namespace {

TEST(OperationTimesTest, CountsAndTimesWhatTheStreamDoes) {
  Stream stream(Gpu{0});
  const Buffer a(1 << 16, DeviceKind::kCuda), b(1 << 16, DeviceKind::kCuda);
  stream.Fill(a.data(), 1, a.bytes());  // before: not counted
  OperationTimes times(&stream);
  EXPECT_TRUE(times.Take().empty());
  stream.Fill(a.data(), 2, a.bytes());
  for (int i = 0; i < 3; ++i) stream.Copy(b.data(), a.data(), a.bytes());
  auto shares = times.Take();
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_GE(shares[0].milliseconds, shares[1].milliseconds);
  std::sort(shares.begin(), shares.end(), [](auto& x, auto& y) { return x.calls < y.calls; });
  EXPECT_EQ(shares[0].operation, "Fill");
  EXPECT_EQ(shares[0].calls, 1);
  EXPECT_EQ(shares[1].operation, "Copy");
  EXPECT_EQ(shares[1].calls, 3);
  EXPECT_GE(shares[1].milliseconds, 0);
  EXPECT_TRUE(times.Take().empty());
}

TEST(OperationTimesTest, OneAtATimeAndNothingOnACpu) {
  Stream cpu(1);
  OperationTimes none(&cpu);
  char x = 0;
  cpu.Fill(&x, 1, 1);
  EXPECT_TRUE(none.Take().empty());
  Stream stream(Gpu{0});
  { OperationTimes first(&stream); }
  OperationTimes second(&stream);
  EXPECT_DEATH(OperationTimes third(&stream), "timed already");
}

}  // namespace
}  // namespace trireme
