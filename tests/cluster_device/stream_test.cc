#include "cluster/device/stream.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

#include "cluster/device/buffer.h"

namespace trireme {
namespace {

TEST(StreamTest, ParallelForRunsEveryBlockOnce) {
  for (int threads : {1, 2, 5}) {
    Stream stream(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> runs(37);
      stream.ParallelFor(37, [&](int64_t block) { ++runs[block]; });
      for (const auto& count : runs) ASSERT_EQ(count.load(), 1);
    }
  }
}

TEST(BufferTest, MemoryUseFollowsBuffers) {
  const int64_t before = BufferMemory().bytes_now;
  {
    Buffer buffer(3 << 20);
    EXPECT_EQ(BufferMemory().bytes_now, before + (3 << 20));
    EXPECT_EQ(buffer.data()[12345], std::byte{0});
    Buffer moved = std::move(buffer);
    EXPECT_EQ(BufferMemory().bytes_now, before + (3 << 20));
  }
  EXPECT_EQ(BufferMemory().bytes_now, before);
  EXPECT_GE(BufferMemory().bytes_max, before + (3 << 20));
}

TEST(ArenaTest, ReleaseGivesBackWhatCameAfterTheMark) {
  Arena arena(4096);
  const Tensor first = arena.Allocate(DType::kF32, {10});
  const int64_t mark = arena.Mark();
  const Tensor second = arena.Allocate(DType::kBF16, {3, 5});
  EXPECT_NE(first.data(), second.data());
  arena.Release(mark);
  EXPECT_EQ(arena.Allocate(DType::kU8, {1}).data(), second.data());
  EXPECT_DEATH(arena.Allocate(DType::kF64, {1000}), "is full");
}

}  // namespace
}  // namespace trireme
