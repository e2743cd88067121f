// Streams that go on behind NCCL's operations: the host waits for nothing but the start, and errors
// that come later are told.
#include <gmock/gmock.h>

#include <future>
#include <vector>

#include "tests/cluster_comm/conformance.h"
#include "tests/cluster_comm_gpu/gpu_world.h"

namespace trireme {
namespace {

using testing::HasSubstr;

TEST(NcclFollowTest, TheHostDoesNotWaitForPeersThatMeetOnTheGpu) {
  std::promise<void> ahead;
  OnEveryGpuRank(2, [&](CommunicatorFactory& factory, Stream& compute) {
    auto comm = AllRanks(factory);
    GpuValues values(compute, 40'000, 1.0f), one(compute, 40'000, 1.0f);
    Work connected = comm->AllReduce(values.ref());
    EXPECT_DONE(connected);
    values.Add(one);
    compute.Synchronize();  // the kernel is loaded
    if (factory.world_rank() == 1) ahead.get_future().wait();
    for (int round = 0; round < 5; ++round) {
      Work work = comm->AllReduce(values.ref());
      ASSERT_TRUE(work.Follow(compute, kSoon).ok());
      values.Add(one);
      const StreamEvent added = compute.Record();
      for (int look = 0; look < 8 && factory.world_rank() == 0; ++look) {
        EXPECT_FALSE(added.Reached()) << "before the other rank has come";
      }
    }
    if (factory.world_rank() == 0) {
      EXPECT_EQ(comm->Settle(1000).code(), StatusCode::kDeadlineExceeded);
      ahead.set_value();
    }
    EXPECT_TRUE(comm->Settle(kSoon).ok());
    EXPECT_EQ(values.Read(), std::vector<float>(40'000, 127.0f));
  });
}

TEST(NcclFollowTest, AnOperationThatFailsLaterIsToldBySettleAndTheStreamGoesOn) {
  OnEveryGpuRank(2, [&](CommunicatorFactory& factory, Stream& compute) {
    auto comm = AllRanks(factory);
    GpuValues values(compute, 40'000, 1.0f);
    Work connected = comm->AllReduce(values.ref());
    EXPECT_DONE(connected);
    if (factory.world_rank() == 1) return;  // and never comes
    Work work = comm->AllReduce(values.ref());
    ASSERT_TRUE(work.Follow(compute, kSoon).ok());
    const Status late = comm->Settle(20'000);
    EXPECT_EQ(late.code(), StatusCode::kDeadlineExceeded);
    EXPECT_THAT(late.message(), HasSubstr("AllReduce 1 of group 'all'"));
    comm->Revoke("rank 1 was lost");
    const Status status = comm->Settle(kSoon);
    EXPECT_EQ(status.code(), StatusCode::kUnavailable);
    EXPECT_THAT(status.message(), HasSubstr("rank 1 was lost"));
    compute.Synchronize();  // the abort lets the stream go on
    EXPECT_TRUE(comm->Settle(0).ok()) << "an error is told once";
  });
}

}  // namespace
}  // namespace trireme
