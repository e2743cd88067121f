#include "tests/cluster_comm/conformance.h"

#include <array>
#include <numeric>

namespace trireme {
namespace {

std::vector<int> WorldSizesFrom(int smallest) {
  std::vector<int> sizes = WorldSizes();
  std::erase_if(sizes, [&](int size) { return size < smallest; });
  return sizes;
}

// At least a leaf a rank.
int LeavesFor(int ranks) { return ranks <= 8 ? 8 : 32; }

// The parameter is the number of members; some promises need two ranks, and two terms cannot show
// an order of sums.
class ConformanceTest : public testing::TestWithParam<int> {};
class PairConformanceTest : public testing::TestWithParam<int> {};
class OrderConformanceTest : public testing::TestWithParam<int> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(PairConformanceTest);
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(OrderConformanceTest);

INSTANTIATE_TEST_SUITE_P(Ranks, ConformanceTest, testing::ValuesIn(WorldSizesFrom(1)),
                         testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Ranks, PairConformanceTest, testing::ValuesIn(WorldSizesFrom(2)),
                         testing::PrintToStringParamName());
INSTANTIATE_TEST_SUITE_P(Ranks, OrderConformanceTest, testing::ValuesIn(WorldSizesFrom(3)),
                         testing::PrintToStringParamName());

template <typename T>
void AllReduceEqualsSerial(TestRank& r, Communicator& comm, int leaves, int64_t count,
                           bool in_place) {
  const SumTree tree = SumTree::Even(leaves, r.size());
  auto partials = PartialsOf<T>(tree, r.rank, count);
  const auto expected = SerialSums<T>({0, leaves}, count);
  std::vector<T> own(count);
  std::vector<T>& out = in_place && !partials.empty() ? partials[0] : own;
  Work work = comm.AllReduce(Refs(partials), Ref(out), tree);
  EXPECT_DONE(work);
  EXPECT_TRUE(SameBits(out, expected))
      << leaves << " leaves over " << r.size() << " ranks, " << count << " of "
      << DTypeName(DTypeOf<T>::value) << (in_place ? ", in place" : "");
}

TEST_P(ConformanceTest, AllReduceHasTheBitsOfTheSerialTree) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    for (int64_t count : {1, 5, 1000, 4096, 50'001}) {
      for (bool in_place : {false, true}) {
        AllReduceEqualsSerial<float>(r, *comm, 8, count, in_place);
        AllReduceEqualsSerial<BFloat16>(r, *comm, 8, count, in_place);
        AllReduceEqualsSerial<double>(r, *comm, 8, count, in_place);
        AllReduceEqualsSerial<int64_t>(r, *comm, 8, count, in_place);
        AllReduceEqualsSerial<float>(r, *comm, 6, count, in_place);
      }
    }
    AllReduceEqualsSerial<float>(r, *comm, 8, 1'000'003, true);
    AllReduceEqualsSerial<float>(r, *comm, 8, 0, true);
  });
}

TEST_P(ConformanceTest, AllReduceTakesLeavesInAnyHandsAndRanksWithoutLeaves) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    const int n = r.size();
    for (const SumTree& tree :
         {SumTree(n, {n - 1, 0, 0, n - 1, n / 2, 0, n - 1, 0}), SumTree(n, {n - 1, n - 1})}) {
      for (int64_t count : {100, 100'000}) {
        auto partials = PartialsOf<float>(tree, r.rank, count);
        std::vector<float> out(count);
        Work work = comm->AllReduce(Refs(partials), Ref(out), tree);
        EXPECT_DONE(work);
        EXPECT_TRUE(SameBits(out, SerialSums<float>({0, tree.leaves()}, count)));
      }
    }
  });
}

// A ring: rank r adds what it hears from r - 1 to its own, piece by piece. Its order of sums
// depends on the piece and on the width.
std::vector<float> RingAllReduce(TestRank& r, Communicator& comm, std::vector<float> values) {
  const int n = r.size();
  const auto pieces = EvenPieces(static_cast<int64_t>(values.size()), n);
  std::vector<float> arrived(values.size());
  for (int round = 0; round < 2 * (n - 1); ++round) {
    const Piece out = pieces[(r.rank + 2 * n - round) % n];
    const Piece in = pieces[(r.rank + 2 * n - round - 1) % n];
    Work send = comm.Send({values.data() + out.begin, out.end - out.begin, DType::kF32},
                          (r.rank + 1) % n, round);
    Work receive = comm.Receive({arrived.data() + in.begin, in.end - in.begin, DType::kF32},
                                (r.rank + n - 1) % n, round);
    EXPECT_DONE(send);
    EXPECT_DONE(receive);
    for (int64_t i = in.begin; i < in.end; ++i) {
      values[i] = round < n - 1 ? arrived[i] + values[i] : arrived[i];
    }
  }
  return values;
}

TEST_P(OrderConformanceTest, ARingOrderIsSeenByTheComparisonOfBits) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    const SumTree tree = SumTree::Even(8, r.size());
    const int64_t count = 4096;
    std::vector<float> mine(count);
    for (int leaf : tree.LeavesOf(r.rank)) {
      for (int64_t i = 0; i < count; ++i) mine[i] += LeafValue<float>(leaf, i);
    }
    EXPECT_FALSE(SameBits(RingAllReduce(r, *comm, mine), SerialSums<float>({0, 8}, count)));
  });
}

TEST_P(ConformanceTest, ReduceScatterGivesOwnersTheirUnevenPieces) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    const int n = r.size();
    for (int64_t unit : {7, 30'000}) {
      // Several pieces a rank, out of order, an empty one, and one element that nobody owns.
      const int64_t count = 6 * unit + 1;
      const std::vector<Piece> pieces = {{n - 1, 3 * unit, 5 * unit},
                                         {0, 0, unit},
                                         {n - 1, unit, unit},
                                         {n / 2, unit, 3 * unit},
                                         {0, 5 * unit, 6 * unit}};
      const SumTree tree = SumTree::Even(LeavesFor(n), n);
      for (bool in_place : {false, true}) {
        auto partials = PartialsOf<float>(tree, r.rank, count);
        std::vector<float> own(count);
        std::vector<float>& out = in_place ? partials[0] : own;
        Work work = comm->ReduceScatter(Refs(partials), pieces, Ref(out), tree);
        EXPECT_DONE(work);
        const auto expected = SerialSums<float>({0, tree.leaves()}, count);
        for (const Piece& piece : pieces) {
          if (piece.owner == r.rank) {
            EXPECT_TRUE(SameBits(out, expected, piece.begin, piece.end));
          }
        }
      }
    }
  });
}

TEST_P(ConformanceTest, AllGatherFillsEveryRank) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    const int n = r.size();
    for (int64_t unit : {0, 1, 3, 5000, r.size() > 8 ? 20'000 : 200'000}) {
      // Rank k owns k units of the front, and one unit at the back; rank 0 owns only the latter.
      std::vector<Piece> pieces;
      int64_t end = 0;
      for (int k = 0; k < n; ++k) {
        pieces.push_back({k, end, end + k * unit});
        end += k * unit;
      }
      for (int k = 0; k < n; ++k, end += unit) pieces.push_back({k, end, end + unit});
      std::vector<uint8_t> buffer(end);
      std::vector<uint8_t> expected(end);
      for (const Piece& piece : pieces) {
        for (int64_t i = piece.begin; i < piece.end; ++i) {
          expected[i] = static_cast<uint8_t>(i * 7 + piece.owner);
          if (piece.owner == r.rank) buffer[i] = expected[i];
        }
      }
      Work work = comm->AllGather(Ref(buffer), pieces);
      EXPECT_DONE(work);
      EXPECT_TRUE(SameBits(buffer, expected)) << unit;
    }
  });
}

TEST_P(ConformanceTest, BroadcastReachesEveryRankFromEveryRoot) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    for (int64_t count : {0, 1, 3000, 10'000, 700'001}) {
      for (int root = 0; root < r.size(); ++root) {
        std::vector<int32_t> buffer(count, -1);
        std::vector<int32_t> expected(count);
        std::iota(expected.begin(), expected.end(), root);
        if (r.rank == root) buffer = expected;
        Work work = comm->Broadcast(Ref(buffer), root);
        EXPECT_DONE(work);
        EXPECT_TRUE(SameBits(buffer, expected)) << count << " from " << root;
      }
    }
  });
}

TEST_P(ConformanceTest, AllToAllTransposesUnevenBlocks) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    const int n = r.size();
    for (int64_t unit : {1, 9, 40'000}) {
      // Rank i sends (i + 2 j) % 3 units to rank j: zero for some.
      const auto blocks = [&](int i, int j) { return (i + 2 * j) % 3 * unit; };
      std::vector<int64_t> send_counts(n), receive_counts(n);
      std::vector<int64_t> send, expected;
      for (int j = 0; j < n; ++j) {
        send_counts[j] = blocks(r.rank, j);
        receive_counts[j] = blocks(j, r.rank);
        for (int64_t k = 0; k < send_counts[j]; ++k) send.push_back(1000 * r.rank + j + k);
        for (int64_t k = 0; k < receive_counts[j]; ++k) expected.push_back(1000 * j + r.rank + k);
      }
      std::vector<int64_t> receive(expected.size());
      Work work = comm->AllToAll(Ref(send), send_counts, Ref(receive), receive_counts);
      EXPECT_DONE(work);
      EXPECT_EQ(receive, expected);
    }
  });
}

TEST_P(PairConformanceTest, MessagesMatchByPeerAndTagInOrderOfCalls) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    if (r.rank > 1) return;
    const int peer = 1 - r.rank;
    for (int64_t count : {0, 10, 100'000}) {
      std::vector<std::vector<float>> out(6), in(6, std::vector<float>(count));
      std::vector<Work> works;
      for (int m = 0; m < 6; ++m) {
        out[m].assign(count, static_cast<float>(100 * r.rank + m));
        works.push_back(comm->Send(Ref(out[m]), peer, m % 2));
      }
      // Tag 1 first: messages 1, 3, 5, then 0, 2, 4.
      for (int m : {1, 3, 5, 0, 2, 4}) works.push_back(comm->Receive(Ref(in[m]), peer, m % 2));
      for (auto work = works.rbegin(); work != works.rend(); ++work) EXPECT_DONE(*work);
      for (int m = 0; m < 6; ++m) {
        EXPECT_EQ(in[m], std::vector<float>(count, static_cast<float>(100 * peer + m)));
      }
    }
  });
}

TEST_P(ConformanceTest, BarrierHoldsUntilTheLastRankEnters) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    auto messages = r.All(2);
    for (int round = 0; round < 3; ++round) {
      const int last = round % r.size();
      std::vector<uint8_t> token(1);
      if (r.rank == last) {
        // The others have entered, and say that they are still inside.
        for (int peer = 0; peer < r.size(); ++peer) {
          if (peer == last) continue;
          Work work = messages->Receive(Ref(token), peer, 0);
          EXPECT_DONE(work);
        }
        Work barrier = comm->Barrier();
        EXPECT_DONE(barrier);
      } else {
        Work barrier = comm->Barrier();
        EXPECT_EQ(barrier.Wait(1000).code(), StatusCode::kDeadlineExceeded);
        Work work = messages->Send(Ref(token), last, 0);
        EXPECT_DONE(work);
        EXPECT_DONE(barrier);
      }
    }
  });
}

TEST_P(ConformanceTest, ManyOperationsInFlightAreAwaitedInAnyOrder) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    std::vector<std::unique_ptr<Communicator>> comms;
    for (uint16_t id = 1; id <= 3; ++id) comms.push_back(r.All(id));
    const SumTree tree = SumTree::Even(LeavesFor(r.size()), r.size());
    constexpr int kOperations = 24;
    const std::array<int64_t, 4> counts = {3, 2000, 20'000, 70'000};
    std::vector<std::vector<std::vector<float>>> partials(kOperations);
    std::vector<Work> works(kOperations);
    for (int k = 0; k < kOperations; ++k) {
      partials[k] = PartialsOf<float>(tree, r.rank, counts[k % 4]);
      works[k] = comms[k % 3]->AllReduce(Refs(partials[k]), Ref(partials[k][0]), tree);
    }
    for (int k = kOperations - 1; k >= 0; --k) {
      const int which = (k * 7 + r.rank) % kOperations;
      EXPECT_DONE(works[which]);
    }
    for (int k = 0; k < kOperations; ++k) {
      EXPECT_TRUE(SameBits(partials[k][0], SerialSums<float>({0, tree.leaves()}, counts[k % 4])));
    }
  });
}

TEST_P(ConformanceTest, OperationsEndWithoutAnyoneWaiting) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    std::vector<float> values(100'000, 1.0f);
    Work work = comm->AllReduce(Ref(values));
    while (!work.Test()) std::this_thread::yield();  // the progress thread alone
    EXPECT_EQ(values, std::vector<float>(100'000, static_cast<float>(r.size())));
  });
}

TEST_P(ConformanceTest, GroupsOfOneAndSubgroupsWorkSideBySide) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto self = r.factory.Create("self", {r.members[r.rank]}, 7, r.generation);
    std::vector<float> values = {1, 2, 3};
    std::vector<Work> works;
    works.push_back(self->AllReduce(Ref(values)));
    works.push_back(self->Broadcast(Ref(values), 0));
    works.push_back(self->Barrier());
    works.push_back(self->AllGather(Ref(values), EvenPieces(3, 1)));
    for (Work& work : works) EXPECT_DONE(work);
    EXPECT_EQ(values, (std::vector<float>{1, 2, 3}));

    std::vector<int> same_parity;
    for (int rank = r.rank % 2; rank < r.size(); rank += 2) {
      same_parity.push_back(r.members[rank]);
    }
    auto sub = r.factory.Create("parity", same_parity, 8, r.generation);
    auto all = r.All();
    EXPECT_EQ(sub->rank(), r.rank / 2);
    std::vector<int64_t> of_sub(30'000, r.rank), of_all(30'000, r.rank);
    Work a = all->AllReduce(Ref(of_all));
    Work b = sub->AllReduce(Ref(of_sub));
    EXPECT_DONE(b);
    EXPECT_DONE(a);
    int64_t sum = 0, sum_of_parity = 0;
    for (int rank = 0; rank < r.size(); ++rank) {
      sum += rank;
      if (rank % 2 == r.rank % 2) sum_of_parity += rank;
    }
    EXPECT_EQ(of_all, std::vector<int64_t>(30'000, sum));
    EXPECT_EQ(of_sub, std::vector<int64_t>(30'000, sum_of_parity));
  });
}

TEST_P(PairConformanceTest, DeadlineNamesOperationGroupSequenceAndMissingRanks) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.factory.Create("data", r.members, 5, r.generation);
    auto gate = r.All(6);
    const int last = r.size() - 1;
    Work first = comm->Barrier();
    EXPECT_DONE(first);
    for (int64_t count : {3, 200'000}) {
      std::vector<float> values(count, 1.0f);
      if (r.rank == last) {
        Work entered = gate->Barrier();
        EXPECT_DONE(entered);
        Work work = comm->AllReduce(Ref(values));
        EXPECT_DONE(work);
      } else {
        Work work = comm->AllReduce(Ref(values));
        const std::string silent =
            StrCat("; nothing heard from rank ", last, " (of the world: ", r.members[last], ")");
        Status status = work.Wait(1000);
        // The others may need more turns until they are heard.
        for (int turn = 0; turn < 10'000 && !status.message().ends_with(silent); ++turn) {
          status = work.Wait(1000);
        }
        EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
        const std::string start =
            StrCat("AllReduce ", count == 3 ? 1 : 2, " of group 'data' (id 5, generation ",
                   r.generation, ") on rank ", r.rank, ": not done after ");
        EXPECT_EQ(status.message().substr(0, start.size()), start);
        EXPECT_TRUE(status.message().ends_with(silent)) << status.message();
        Work entered = gate->Barrier();
        EXPECT_DONE(entered);
        EXPECT_DONE(work);
      }
      EXPECT_EQ(values, std::vector<float>(count, static_cast<float>(r.size())));
    }
  });
}

TEST_P(ConformanceTest, RevokeEndsWhatIsInFlightAndWhatComesLater) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.factory.Create("data", r.members, 5, r.generation);
    auto other = r.All(6);
    std::vector<float> values(100'000);
    Work work;
    if (r.size() > 1) {
      work = comm->Receive(Ref(values), (r.rank + 1) % r.size(), 9);  // nobody sends
    }
    std::thread([&] { comm->Revoke("rank 3 was lost"); }).join();
    if (r.size() > 1) {
      const Status status = work.Wait(kSoon);
      EXPECT_EQ(status.code(), StatusCode::kUnavailable);
      EXPECT_EQ(status.message(), StrCat("Receive 0 of group 'data' (id 5, generation ",
                                         r.generation, "): rank 3 was lost"));
    }
    Work later = comm->Barrier();
    EXPECT_TRUE(later.Test());
    EXPECT_EQ(later.Wait(0).code(), StatusCode::kUnavailable);
    Work unharmed = other->Barrier();
    EXPECT_DONE(unharmed);
  });
}

TEST_P(PairConformanceTest, AbandonedOperationsDoNotDisturbTheNextGeneration) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    const SumTree tree = SumTree::Even(LeavesFor(r.size()), r.size());
    const int64_t count = 300'000;
    {
      auto comm = r.All();
      auto values = std::make_shared<std::vector<float>>(count, 1.0f);
      // The last rank never enters; all others give up.
      if (r.rank != r.size() - 1) {
        Work work = comm->AllReduce(Ref(*values));
        EXPECT_EQ(work.Wait(1000).code(), StatusCode::kDeadlineExceeded);
        work.Abandon(values);
        EXPECT_EQ(work.Wait(0).code(), StatusCode::kUnavailable);
      }
    }
    // The same group id and sequence numbers in a new generation.
    auto comm = r.factory.Create("all", r.members, 1, r.generation + 1);
    for (int round = 0; round < 3; ++round) {
      auto partials = PartialsOf<float>(tree, r.rank, count);
      Work work = comm->AllReduce(Refs(partials), Ref(partials[0]), tree);
      EXPECT_DONE(work);
      EXPECT_TRUE(SameBits(partials[0], SerialSums<float>({0, tree.leaves()}, count)));
    }
  });
}

TEST_P(PairConformanceTest, MessagesOfAnOldGenerationAreDropped) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    if (r.rank > 1) return;
    std::vector<int64_t> value = {0};
    std::unique_ptr<Communicator> old;
    if (r.rank == 0) {
      old = r.All();
      value[0] = 111;
      Work stale = old->Send(Ref(value), 1, 4);
      EXPECT_DONE(stale);
    }
    auto comm = r.factory.Create("all", r.members, 1, r.generation + 1);
    if (r.rank == 0) {
      value[0] = 222;
      Work work = comm->Send(Ref(value), 1, 4);
      EXPECT_DONE(work);
      // The old communicator is over as well.
      Work late = old->Send(Ref(value), 1, 4);
      EXPECT_EQ(late.Wait(0).code(), StatusCode::kUnavailable);
      EXPECT_NE(late.Wait(0).message().find("has begun"), std::string::npos);
    } else {
      Work work = comm->Receive(Ref(value), 0, 4);
      EXPECT_DONE(work);
      EXPECT_EQ(value[0], 222);
    }
  });
}

TEST_P(PairConformanceTest, AMessageOfAnotherSizeIsAnErrorAtTheReceiver) {
  OnEveryRank(GetParam(), [](TestRank& r) {
    auto comm = r.All();
    auto done = r.All(2);
    const std::vector<std::pair<int64_t, int64_t>> sizes = {
        {10, 11}, {100'000, 100'001}, {10, 100'000}, {100'000, 10}};
    int tag = 0;
    for (const auto& [sent, expected] : sizes) {
      std::vector<float> values(std::max(sent, expected));
      if (r.rank == 0) {
        Work work = comm->Send({values.data(), sent, DType::kF32}, 1, tag);
        Work met = done->Barrier();
        EXPECT_DONE(met);
        (void)work.Wait(0);  // it may have left, or be refused
        work.Abandon();
      } else {
        if (r.rank == 1) {
          Work work = comm->Receive({values.data(), expected, DType::kF32}, 0, tag);
          const Status status = work.Wait(kSoon);
          EXPECT_EQ(status.code(), StatusCode::kInternal);
          EXPECT_NE(status.message().find(
                        StrCat("it sent ", 4 * sent, " bytes in Send, expected ", 4 * expected)),
                    std::string::npos)
              << status.message();
        }
        Work met = done->Barrier();
        EXPECT_DONE(met);
      }
      ++tag;
    }
  });
}

}  // namespace
}  // namespace trireme
