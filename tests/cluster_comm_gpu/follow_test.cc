// Streams that go on behind operations: the results are there for what is enqueued next.
#include <gtest/gtest.h>

#include <vector>

#include "tests/cluster_comm/conformance.h"
#include "tests/cluster_comm_gpu/gpu_world.h"

namespace trireme {
namespace {

// v := ranks * v + 1 each round, with no wait in between.
TEST(FollowTest, ChainsOfOperationsAndKernelsNeedNoWait) {
  for (const int ranks : {1, 2, 3}) {
    for (const int64_t count : {int64_t{100}, int64_t{40'000}}) {
      OnEveryGpuRank(ranks, [&](CommunicatorFactory& factory, Stream& compute) {
        auto comm = AllRanks(factory);
        GpuValues values(compute, count, 1.0f), one(compute, count, 1.0f);
        float expected = 1;
        for (int round = 0; round < 9; ++round) {
          Work work = comm->AllReduce(values.ref());
          ASSERT_TRUE(work.Follow(compute, kSoon).ok());
          EXPECT_FALSE(work.valid()) << "the work is spent";
          values.Add(one);
          expected = static_cast<float>(ranks) * expected + 1;
        }
        EXPECT_TRUE(comm->Settle(kSoon).ok());
        EXPECT_EQ(values.Read(), std::vector<float>(count, expected));
      });
    }
  }
}

TEST(FollowTest, MessagesAreFollowedToo) {
  for (const int64_t count : {int64_t{100}, int64_t{40'000}}) {
    OnEveryGpuRank(2, [&](CommunicatorFactory& factory, Stream& compute) {
      auto comm = AllRanks(factory);
      GpuValues values(compute, count, 1.0f), one(compute, count, 1.0f);
      for (int round = 0; round < 6; ++round) {
        if (factory.world_rank() == round % 2) {
          values.Add(one);
          Work work = comm->Send(values.ref(), 1 - round % 2, round);
          ASSERT_TRUE(work.Follow(compute, kSoon).ok());
        } else {
          Work work = comm->Receive(values.ref(), round % 2, round);
          ASSERT_TRUE(work.Follow(compute, kSoon).ok());
        }
      }
      EXPECT_TRUE(comm->Settle(kSoon).ok());
      EXPECT_EQ(values.Read(), std::vector<float>(count, 7.0f));
    });
  }
}

}  // namespace
}  // namespace trireme
