// Streams that go on behind operations: the results are there for what is enqueued next, the host
// waits for nothing but the start, and errors that come later are told.
#include <gmock/gmock.h>

#include <future>
#include <numeric>
#include <vector>

#include "cluster/comm/device_link.h"
#include "cluster/device/elementwise.h"
#include "tests/cluster_comm/conformance.h"
#include "tests/cluster_comm_gpu/gpu_world.h"

namespace trireme {
namespace {

using testing::HasSubstr;

// Floats of the GPU.
class Values {
 public:
  Values(Stream& stream, int64_t count, float value)
      : stream_(stream), count_(count), memory_(DeviceMemory(stream, count * 4)) {
    const std::vector<float> all(count, value);
    stream_.Copy(memory_.data(), all.data(), count * 4);
  }
  BufferRef ref() const { return {memory_.data(), count_, DType::kF32}; }
  void Add(const Values& other) {
    AddInPlace(stream_, reinterpret_cast<float*>(memory_.data()),
               reinterpret_cast<const float*>(other.memory_.data()), count_);
  }
  std::vector<float> Read() const {
    std::vector<float> all(count_);
    stream_.Copy(all.data(), memory_.data(), count_ * 4);
    stream_.Synchronize();
    return all;
  }

 private:
  Stream& stream_;
  int64_t count_;
  Buffer memory_;
};

std::unique_ptr<Communicator> All(CommunicatorFactory& factory, uint64_t generation = 1) {
  std::vector<int> members(factory.world_size());
  std::iota(members.begin(), members.end(), 0);
  return factory.Create("all", members, 1, generation);
}

// v := ranks * v + 1 each round, with no wait in between.
TEST(FollowTest, ChainsOfOperationsAndKernelsNeedNoWait) {
  for (const int ranks : {1, 2, 3}) {
    for (const int64_t count : {int64_t{100}, int64_t{40'000}}) {
      OnEveryGpuRank(ranks, [&](CommunicatorFactory& factory, Stream& compute) {
        auto comm = All(factory);
        Values values(compute, count, 1.0f), one(compute, count, 1.0f);
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
      auto comm = All(factory);
      Values values(compute, count, 1.0f), one(compute, count, 1.0f);
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

TEST(FollowTest, TheHostDoesNotWaitForPeersThatMeetOnTheGpu) {
  if (!PeersMeetOnTheGpu()) GTEST_SKIP() << "peers meet on the host";
  std::promise<void> ahead;
  OnEveryGpuRank(2, [&](CommunicatorFactory& factory, Stream& compute) {
    auto comm = All(factory);
    Values values(compute, 40'000, 1.0f), one(compute, 40'000, 1.0f);
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

TEST(FollowTest, AnOperationThatFailsLaterIsToldBySettleAndTheStreamGoesOn) {
  if (!PeersMeetOnTheGpu()) GTEST_SKIP() << "peers meet on the host";
  OnEveryGpuRank(2, [&](CommunicatorFactory& factory, Stream& compute) {
    auto comm = All(factory);
    Values values(compute, 40'000, 1.0f);
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
