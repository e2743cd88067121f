// What the NCCL communicator does beyond the conformance suite: connections made when they are
// needed, failures, aborts that hang, peers that are late, NCCL's own sums.
#include <cstdlib>
#include <thread>

#include "tests/cluster_comm_gpu/nccl_world.h"

namespace trireme {
namespace {

class NcclTest : public testing::Test {
 protected:
  void SetUp() override {
    Fake().reset();
    alive_before_ = Fake().alive();
  }
  int Alive() const { return Fake().alive() - alive_before_; }
  int alive_before_ = 0;
};

TEST_F(NcclTest, GroupsConnectWhenTheyAreFirstUsedAndEndWithNothingLeft) {
  OnEveryNcclRank(3, {}, [&](TestRank& r) {
    auto used = r.All(1);
    auto unused = r.All(2);
    std::vector<float> values(50'000, 1.0f);
    for (int round = 0; round < 3; ++round) {
      Work work = used->AllReduce(Ref(values));
      EXPECT_DONE(work);
    }
    EXPECT_EQ(values, std::vector<float>(50'000, 27.0f));
    Work before = used->Barrier();
    EXPECT_DONE(before);
    EXPECT_EQ(Alive(), 3);
    Work after = used->Barrier();
    EXPECT_DONE(after);
  });
  EXPECT_EQ(Fake().calls("ncclGetUniqueId"), 1);
  EXPECT_EQ(Fake().calls("ncclCommInitRankConfig"), 3);
  EXPECT_EQ(Fake().calls("ncclCommFinalize"), 3) << "nothing was in flight: no abort";
  EXPECT_EQ(Fake().aborts(), 0);
  EXPECT_EQ(Alive(), 0);
}

TEST_F(NcclTest, SmallMessagesNeedNoNcclAndLargeOnesOneConnectionADirection) {
  OnEveryNcclRank(2, {}, [&](TestRank& r) {
    auto comm = r.All();
    std::vector<float> small(100, 1.0f + r.rank), large(100'000, 3.0f + r.rank);
    std::vector<float> small_in(100), large_in(100'000);
    for (int round = 0; round < 3; ++round) {
      std::vector<Work> works;
      works.push_back(comm->Send(Ref(small), 1 - r.rank, 0));
      works.push_back(comm->Receive(Ref(small_in), 1 - r.rank, 0));
      for (Work& work : works) EXPECT_DONE(work);
    }
    EXPECT_TRUE(r.rank != 0 || Fake().calls("ncclCommInitRankConfig") == 0);
    Work met = comm->Barrier();
    EXPECT_DONE(met);
    for (int round = 0; round < 3; ++round) {
      std::vector<Work> works;
      works.push_back(comm->Send(Ref(large), 1 - r.rank, 0));
      works.push_back(comm->Receive(Ref(large_in), 1 - r.rank, 0));
      for (Work& work : works) EXPECT_DONE(work);
    }
    EXPECT_EQ(small_in[0], 2.0f - r.rank);
    EXPECT_EQ(large_in[99'999], 4.0f - r.rank);
  });
  EXPECT_EQ(Fake().calls("ncclCommInitRankConfig"), 4) << "two directions, two ends";
}

TEST_F(NcclTest, ARehearsalSendsNothingAndItsEndConnects) {
  OnEveryNcclRank(3, {}, [&](TestRank& r) {
    auto comm = r.All(), unused = r.All(2);
    const int before = (r.rank + 2) % 3, behind = (r.rank + 1) % 3;
    std::vector<float> sums(50'000, 1.0f), large(50'000, 2.0f + r.rank), in(50'000);
    const auto sum_and_hand_on = [&] {
      std::vector<Work> works;
      works.push_back(comm->AllReduce(Ref(sums)));
      works.push_back(comm->Send(Ref(large), behind, 0));
      works.push_back(comm->Receive(Ref(in), before, 0));
      for (Work& work : works) EXPECT_DONE(work);
    };
    comm->BeginRehearsal();
    unused->BeginRehearsal();
    sum_and_hand_on();  // whatever the others do
    EXPECT_EQ(sums, std::vector<float>(50'000, 1.0f));
    EXPECT_EQ(in, std::vector<float>(50'000));
    EXPECT_TRUE(comm->EndRehearsal(kSoon).ok());
    EXPECT_TRUE(unused->EndRehearsal(kSoon).ok());
    sum_and_hand_on();
    EXPECT_EQ(sums, std::vector<float>(50'000, 3.0f));
    EXPECT_EQ(in, std::vector<float>(50'000, 2.0f + before));
    EXPECT_EQ(Fake().calls("ncclCommInitRankConfig"), 3 + 2 * 3) << "made by the end alone";
    Work met = comm->Barrier();
    EXPECT_DONE(met);
  });
  EXPECT_EQ(Fake().aborts(), 0);
}

TEST_F(NcclTest, APeerThatDoesNotConnectIsToldWithItsRank) {
  OnEveryNcclRank(2, {}, [&](TestRank& r) {
    auto comm = r.All();
    std::vector<float> large(50'000);
    comm->BeginRehearsal();
    Work work = r.rank == 0 ? comm->Send(Ref(large), 1, 0) : comm->Receive(Ref(large), 0, 0);
    EXPECT_DONE(work);
    if (r.rank == 0) {
      const Status status = comm->EndRehearsal(50'000);
      EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
      EXPECT_NE(status.message().find("connecting: Send 0 of group 'all'"), std::string::npos)
          << status.message();
      EXPECT_NE(status.message().find("waiting for rank 1"), std::string::npos) << status.message();
    }
  });
}

TEST_F(NcclTest, FastSumsAreNcclsOwn) {
  const NcclOptions fast{.fast_sums = true};
  OnEveryNcclRank(3, fast, [&](TestRank& r) {
    auto comm = r.All();
    const int64_t count = 30'000;
    const auto near = [&](const std::vector<float>& sums, int64_t begin, int64_t end) {
      const auto exact = SerialSums<double>({0, 8}, count);
      for (int64_t i = begin; i < end; ++i) {
        ASSERT_NEAR(sums[i], exact[i], 1e-2) << i;
      }
    };
    // Ranks with several partial sums, and one without any.
    for (const SumTree& tree : {SumTree::Even(8, 3), SumTree(3, {0, 0, 2, 2, 0, 0, 2, 2})}) {
      auto partials = PartialsOf<float>(tree, r.rank, count);
      std::vector<float> out(count);
      Work all = comm->AllReduce(Refs(partials), Ref(out), tree);
      EXPECT_DONE(all);
      near(out, 0, count);
      const std::vector<Piece> uneven = {{2, 0, 100}, {0, 100, 20'000}, {2, 20'000, count}};
      const std::vector<Piece> even = {{0, 0, 10'000}, {1, 10'000, 20'000}, {2, 20'000, 30'000}};
      for (const auto& pieces : {uneven, even}) {
        Work scatter = comm->ReduceScatter(Refs(partials), pieces, Ref(out), tree);
        EXPECT_DONE(scatter);
        for (const Piece& piece : pieces) {
          if (piece.owner == r.rank) near(out, piece.begin, piece.end);
        }
      }
    }
  });
  EXPECT_GT(Fake().calls("ncclAllReduce"), 0);
  EXPECT_GT(Fake().calls("ncclReduceScatter"), 0);
  EXPECT_GT(Fake().calls("ncclReduce"), 0);
  EXPECT_EQ(Fake().calls("ncclSend"), 0);
}

TEST_F(NcclTest, ACallThatFailsEndsTheGroupAndSaysWhatNcclSays) {
  for (const char* call : {"ncclGetUniqueId", "ncclCommInitRankConfig", "ncclGroupEnd"}) {
    Fake().reset();
    Fake().fail_call(call, nccl::kSystemError, 0);
    std::atomic<int> failed{0};
    OnEveryNcclRank(2, {}, [&](TestRank& r) {
      auto comm = r.All();
      std::vector<float> values(50'000, 1.0f);
      Work work = comm->AllReduce(Ref(values));
      Status status = work.Wait(300'000);
      EXPECT_FALSE(status.ok()) << call;
      if (status.message().find("NCCL says: system error") != std::string::npos) {
        ++failed;
        EXPECT_EQ(status.code(), StatusCode::kUnavailable);
        Work later = comm->AllReduce(Ref(values));
        EXPECT_EQ(later.Wait(0).code(), StatusCode::kUnavailable);
      }
      work.Abandon();
    });
    EXPECT_EQ(failed, 1) << call;
  }
}

TEST_F(NcclTest, AnErrorOfAPeerEndsWhatIsInFlight) {
  OnEveryNcclRank(2, {}, [&](TestRank& r) {
    auto comm = r.All();
    std::vector<float> values(50'000, 1.0f);
    Work first = comm->AllReduce(Ref(values));
    EXPECT_DONE(first);
    if (r.rank == 1) return;
    Work work = comm->AllReduce(Ref(values));  // rank 1 never comes
    EXPECT_EQ(work.Wait(20'000).code(), StatusCode::kDeadlineExceeded);
    Fake().async_error(nccl::kRemoteError);
    const Status status = work.Wait(kSoon);
    EXPECT_EQ(status.code(), StatusCode::kUnavailable);
    EXPECT_NE(status.message().find("AllReduce 1 of group 'all' (id 1, generation 1): NCCL says: "
                                    "remote error (as the test wants it)"),
              std::string::npos)
        << status.message();
    work.Abandon();
  });
}

TEST_F(NcclTest, ALatePeerIsWaitedForWithoutBlockingOthers) {
  OnEveryNcclRank(2, {}, [&](TestRank& r) {
    auto comm = r.All(1);
    auto other = r.All(2);
    std::vector<float> values(50'000, 1.0f), others(50'000, 1.0f);
    if (r.rank == 0) {
      Work work = comm->AllReduce(Ref(values));
      Work unharmed = other->AllReduce(Ref(others));
      EXPECT_DONE(unharmed);
      EXPECT_FALSE(work.Test());
      Work gate = other->Barrier();
      EXPECT_DONE(gate);
      EXPECT_DONE(work);
    } else {
      Work unharmed = other->AllReduce(Ref(others));
      EXPECT_DONE(unharmed);
      Work gate = other->Barrier();
      EXPECT_DONE(gate);
      Work work = comm->AllReduce(Ref(values));
      EXPECT_DONE(work);
    }
    EXPECT_EQ(values, std::vector<float>(50'000, 2.0f));
  });
}

TEST_F(NcclTest, RevokeReturnsAtOnceThoughAbortHangs) {
  const NcclOptions options{.abort_patience = 50'000};
  std::weak_ptr<std::vector<float>> buried;
  OnEveryNcclRank(2, options, [&](TestRank& r) {
    auto comm = r.All();
    auto gate = r.All(2);
    auto values = std::make_shared<std::vector<float>>(50'000, 1.0f);
    Work first = comm->AllReduce(Ref(*values));
    EXPECT_DONE(first);
    Work met = gate->Barrier();
    EXPECT_DONE(met);
    if (r.rank == 1) return;
    Fake().hang_in_abort(true);
    Work work = comm->AllReduce(Ref(*values));  // rank 1 never comes
    EXPECT_EQ(work.Wait(1000).code(), StatusCode::kDeadlineExceeded);
    comm->Revoke("rank 1 was lost");
    EXPECT_EQ(work.Wait(0).message(),
              "AllReduce 1 of group 'all' (id 1, generation 1): rank 1 was lost");
    buried = values;
    work.Abandon(std::move(values));
    EXPECT_FALSE(buried.expired()) << "the GPU may still write there";

    // A group of the next generation waits for the abort, and is told when it does not come.
    auto next = r.factory.Create("all", {0, 1}, 1, 2);
    std::vector<float> more(50'000, 1.0f);
    Work refused = next->AllReduce(Ref(more));
    const Status status = refused.Wait(kSoon);
    EXPECT_EQ(status.code(), StatusCode::kUnavailable);
    EXPECT_NE(status.message().find("group 'all' (id 1, generation 1) did not come within 50 ms"),
              std::string::npos)
        << status.message();
    EXPECT_NE(status.message().find("the process has to be replaced"), std::string::npos);
    refused.Abandon();
  });
  EXPECT_FALSE(buried.expired());
  Fake().hang_in_abort(false);
  for (int turn = 0; turn < 10'000 && !buried.expired(); ++turn) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(buried.expired()) << "released when the abort has ended";
}

TEST_F(NcclTest, AMissingOrOldLibraryIsOneClearLine) {
  setenv("TRIREME_NCCL_LIBRARY", "/nowhere/libnccl.so.2", 1);
  const auto missing = nccl::Load();
  EXPECT_EQ(missing.status().code(), StatusCode::kUnavailable);
  EXPECT_TRUE(missing.status().message().starts_with("no NCCL: /nowhere/libnccl.so.2"))
      << missing.status().message();
  setenv("TRIREME_NCCL_LIBRARY", "libc.so.6", 1);
  EXPECT_EQ(nccl::Load().status().message(), "no NCCL: libc.so.6 has no ncclGetVersion");
  setenv("TRIREME_NCCL_LIBRARY", FAKE_NCCL, 1);
  const auto description = NcclDescription();
  ASSERT_TRUE(description.ok());
  EXPECT_TRUE(description.value().starts_with("2.28.9 (")) << description.value();
}

TEST_F(NcclTest, AStreamOfTheCpuIsRefused) {
  auto hosts = ThreadWorld(1);
  Stream compute(1);
  const auto world = NcclWorld(hosts[0].get(), &compute);
  EXPECT_EQ(world.status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace trireme
