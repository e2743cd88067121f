// Parity: layouts of the same global batch end with the same bits.
#include <gtest/gtest.h>

#include "tests/parallelism/toy_world.h"

namespace trireme {
namespace {

using toy::Outcome;
using toy::RunSetup;
using toy::RunToy;

std::string Describe(const RunSetup& s) {
  return StrCat("data ", s.data, " pipeline ", s.pipeline, " zero ", s.zero, " ", s.schedule);
}

void ExpectSame(const Outcome& serial, const Outcome& other, const std::string& what) {
  EXPECT_TRUE(other.problems.empty()) << what << ": " << other.problems[0];
  EXPECT_EQ(serial.losses, other.losses) << what;
  EXPECT_EQ(serial.norms, other.norms) << what;
  EXPECT_TRUE(serial.state == other.state) << what;
}

TEST(ParityTest, EveryLayoutEndsWithTheBitsOfSerial) {
  const Outcome serial = RunToy(RunSetup{});
  ASSERT_TRUE(serial.problems.empty()) << serial.problems[0];
  ASSERT_EQ(serial.losses.size(), 3u);
  EXPECT_NE(serial.losses[2], serial.losses[0]);
  for (int data : {1, 2, 3, 4}) {
    for (int zero : {0, 1}) {
      for (int pipeline : {1, 2, 4}) {
        for (const char* schedule : {"gpipe", "1f1b", "zb"}) {
          RunSetup setup;
          setup.data = data;
          setup.zero = zero;
          setup.pipeline = pipeline;
          setup.schedule = schedule;
          ExpectSame(serial, RunToy(setup), Describe(setup));
        }
      }
    }
  }
}

TEST(ParityTest, EveryWidthUpToTheLeavesEndsWithTheBitsOfSerial) {
  const Outcome serial = RunToy(RunSetup{});
  for (int data : {5, 6, 7, 8}) {
    RunSetup setup;
    setup.data = data;
    setup.zero = 1;
    ExpectSame(serial, RunToy(setup), Describe(setup));
  }
}

TEST(ParityTest, Bf16ComputeWithMastersEndsWithTheBitsOfSerial) {
  RunSetup setup;
  setup.compute = DType::kBF16;
  const Outcome serial = RunToy(setup);
  ASSERT_TRUE(serial.problems.empty()) << serial.problems[0];
  EXPECT_FALSE(serial.state == RunToy(RunSetup{}).state) << "bf16 must change something";
  for (int data : {2, 3}) {
    for (int zero : {0, 1}) {
      setup.data = data;
      setup.zero = zero;
      setup.pipeline = 2;
      ExpectSame(serial, RunToy(setup), Describe(setup));
    }
  }
}

// Six steps at once, or three, a checkpoint, and three more on another layout.
TEST(ParityTest, StateMovesBetweenLayouts) {
  for (const DType compute : {DType::kF32, DType::kBF16}) {
    RunSetup whole;
    whole.compute = compute;
    whole.steps = 6;
    const Outcome undisturbed = RunToy(whole);
    RunSetup first = whole;
    first.steps = 3;
    first.data = 3;
    first.zero = 1;
    const Outcome stopped = RunToy(first);
    RunSetup second = whole;
    second.first_step = 4;
    second.data = 2;
    second.pipeline = 4;
    second.resume = &stopped.state;
    const Outcome resumed = RunToy(second);
    EXPECT_TRUE(resumed.problems.empty()) << resumed.problems[0];
    EXPECT_TRUE(undisturbed.state == resumed.state);
    EXPECT_EQ(undisturbed.losses.back(), resumed.losses.back());
  }
}

TEST(ParityTest, BucketSizesChangeNothing) {
  const Outcome serial = RunToy(RunSetup{});
  for (int64_t bytes : {1, 100, 1 << 20}) {
    RunSetup setup;
    setup.data = 3;
    setup.zero = 1;
    setup.bucket_bytes = bytes;
    ExpectSame(serial, RunToy(setup), StrCat("buckets of ", bytes));
  }
}

// Sums all contributions of a chunk in an order that rotates with the chunk, as a ring does.
class RingCommunicator final : public Communicator {
 public:
  explicit RingCommunicator(std::unique_ptr<Communicator> inner) : inner_(std::move(inner)) {}
  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  uint64_t generation() const override { return inner_->generation(); }
  const std::string& name() const override { return inner_->name(); }

  Work ReduceScatter(std::span<const BufferRef> partials, std::span<const Piece> pieces,
                     BufferRef out, const SumTree& tree) override {
    Ring(partials, out);
    return inner_->Barrier();
  }
  Work AllReduce(std::span<const BufferRef> partials, BufferRef out, const SumTree& tree) override {
    Ring(partials, out);
    return inner_->Barrier();
  }
  Work AllGather(BufferRef buffer, std::span<const Piece> pieces) override {
    return inner_->AllGather(buffer, pieces);
  }
  Work Broadcast(BufferRef buffer, int root) override { return inner_->Broadcast(buffer, root); }
  Work AllToAll(BufferRef send, std::span<const int64_t> send_counts, BufferRef receive,
                std::span<const int64_t> receive_counts) override {
    return inner_->AllToAll(send, send_counts, receive, receive_counts);
  }
  Work Send(BufferRef buffer, int peer, int tag) override {
    return inner_->Send(buffer, peer, tag);
  }
  Work Receive(BufferRef buffer, int peer, int tag) override {
    return inner_->Receive(buffer, peer, tag);
  }
  Work Barrier() override { return inner_->Barrier(); }
  void Revoke(const std::string& reason) override { inner_->Revoke(reason); }

 private:
  void Ring(std::span<const BufferRef> partials, BufferRef out) {
    const int64_t count = out.count;
    std::vector<float> all(static_cast<size_t>(count) * size());
    std::vector<Piece> rows;
    for (int r = 0; r < size(); ++r) rows.push_back({r, r * count, (r + 1) * count});
    float* own = &all[static_cast<size_t>(rank()) * count];
    for (const BufferRef& partial : partials) {
      for (int64_t i = 0; i < count; ++i) own[i] += static_cast<const float*>(partial.data)[i];
    }
    Work work =
        inner_->AllGather({all.data(), static_cast<int64_t>(all.size()), DType::kF32}, rows);
    CHECK(work.Wait(toy::kTimeout).ok());
    for (const Piece& chunk : EvenPieces(count, size(), 1)) {
      for (int64_t i = chunk.begin; i < chunk.end; ++i) {
        float sum = all[chunk.owner * count + i];
        for (int k = 1; k < size(); ++k) sum += all[(chunk.owner + k) % size() * count + i];
        static_cast<float*>(out.data)[i] = sum;
      }
    }
  }

  std::unique_ptr<Communicator> inner_;
};

class RingFactory final : public CommunicatorFactory {
 public:
  explicit RingFactory(std::unique_ptr<CommunicatorFactory> inner) : inner_(std::move(inner)) {}
  std::unique_ptr<Communicator> Create(const std::string& name, std::vector<int> members,
                                       uint16_t group_id, uint64_t generation) override {
    auto group = inner_->Create(name, std::move(members), group_id, generation);
    if (name != "data") return group;
    return std::make_unique<RingCommunicator>(std::move(group));
  }
  int world_rank() const override { return inner_->world_rank(); }
  int world_size() const override { return inner_->world_size(); }

 private:
  std::unique_ptr<CommunicatorFactory> inner_;
};

// The tests above can see a wrong order of sums: with a ring they would be red.
TEST(ParityTest, APlantedRingOrderIsSeen) {
  const Outcome serial = RunToy(RunSetup{});
  for (int data : {3, 4}) {
    for (int zero : {0, 1}) {
      RunSetup setup;
      setup.data = data;
      setup.zero = zero;
      setup.wrap = [](std::unique_ptr<CommunicatorFactory> inner) {
        return std::make_unique<RingFactory>(std::move(inner));
      };
      const Outcome ring = RunToy(setup);
      EXPECT_TRUE(ring.problems.empty()) << ring.problems[0];
      EXPECT_FALSE(serial.state == ring.state) << Describe(setup);
      EXPECT_NEAR(serial.losses[2], ring.losses[2], 1e-4) << "a ring is wrong in rounding alone";
    }
  }
}

}  // namespace
}  // namespace trireme
