// Layouts over MPI against one thread of this process: each rank compares the boxes it holds. Run
// by mpirun with one process more than workers: rank 0 stands aside, as the coordinator does.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "tests/parity/layouts.h"

namespace trireme {
namespace {

CommunicatorFactory* world = nullptr;

// Runs of 5 and of 9 processes share the layouts: each has those that fit into it and not into the
// smaller one. A layout of one rank has nothing to send.
std::vector<LayoutCase> Here(const std::vector<LayoutCase>& all) {
  const int workers = world->world_size() - 1;
  std::vector<LayoutCase> here;
  for (const LayoutCase& layout : all) {
    const int smaller = workers > 4 ? 4 : 1;
    if (layout.ranks() > smaller && layout.ranks() <= workers) here.push_back(layout);
  }
  return here;
}

class MpiParityTest : public testing::TestWithParam<ModelAndLayout> {
 protected:
  // The rank of this process in the layout, or -1. Called once a test by every process.
  int Rank() {
    ++generation_;
    const int rank = world->world_rank() - 1;
    return rank < std::get<1>(GetParam()).ranks() ? rank : -1;
  }
  // Has the losses, norms, gradients and state of `reference` in its boxes.
  void ExpectBits(const HarnessRank& mine, const HarnessResult& reference) {
    ASSERT_TRUE(reference.status.ok()) << reference.status.message();
    ASSERT_TRUE(mine.status.ok()) << mine.status.message();
    EXPECT_EQ(mine.norms, reference.norms);
    for (const auto& [key, loss] : mine.losses) {
      EXPECT_EQ(loss, reference.microbatch_losses.at(key)) << key.first << " " << key.second;
    }
    ASSERT_FALSE(mine.state.empty() || mine.gradients.empty());
    EXPECT_EQ(DifferingParts(mine.state, reference.state), "");
    EXPECT_EQ(DifferingParts(mine.gradients, reference.gradients), "");
  }
  HarnessRank RunMine(int rank) const {
    const auto& [model, layout] = GetParam();
    return RunHarnessRank(With(model.Run(), layout), world, rank, 1, generation_);
  }

 private:
  static inline uint64_t generation_ = 0;  // the same on all ranks: they run the same tests
};

using MpiSameBitsTest = MpiParityTest;

TEST_P(MpiSameBitsTest, TrainsToTheSerialBits) {
  const int rank = Rank();
  if (rank < 0) return;
  const HarnessResult& serial = OfTensorDegree(std::get<0>(GetParam()), 1);
  ExpectBits(RunMine(rank), serial);
}

INSTANTIATE_TEST_SUITE_P(Layouts, MpiSameBitsTest,
                         testing::Combine(testing::ValuesIn(ParityModels()),
                                          testing::ValuesIn(Here(SameBitsLayouts()))),
                         NameOf);

using MpiTensorTest = MpiParityTest;

// The bits of threads at this tensor degree; of serial, within rounding.
TEST_P(MpiTensorTest, TrainsToTheBitsOfItsDegreeAndWithinRoundingOfSerial) {
  const int rank = Rank();
  if (rank < 0) return;
  const auto& [model, layout] = GetParam();
  const HarnessResult& degree = OfTensorDegree(model, layout.tensor);
  const HarnessResult& serial = OfTensorDegree(model, 1);
  const HarnessRank mine = RunMine(rank);
  ExpectBits(mine, degree);
  if (model.compute != DType::kF32) return;
  HarnessResult near = serial;  // with what is mine in its place
  Assemble(mine.state, &near.state);
  Assemble(mine.gradients, &near.gradients);
  near.norms = mine.norms;
  for (const auto& [key, loss] : mine.losses) near.microbatch_losses[key] = loss;
  for (size_t step = 0; step < near.losses.size(); ++step) {
    near.losses[step] = MeanLoss(model.Run(), near.microbatch_losses, static_cast<int>(step) + 1);
  }
  ExpectNear(near, serial, InitialState(model));
}

INSTANTIATE_TEST_SUITE_P(Layouts, MpiTensorTest,
                         testing::Combine(testing::ValuesIn(ParityModels()),
                                          testing::ValuesIn(Here(TensorLayouts()))),
                         NameOf);

// Only one rank reports what passed; the others report failures alone.
class QuietPrinter final : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::cerr << "world rank " << world->world_rank() << ": " << result.file_name() << ":"
              << result.line_number() << ": " << result.message() << std::endl;
  }
};

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  alarm(150);
  auto factory = trireme::MpiWorld();
  if (!factory.ok()) {
    std::cerr << factory.status().message() << "\n";
    return 1;
  }
  trireme::world = factory->get();
  testing::InitGoogleTest(&argc, argv);  // asks for the layouts, hence for the size of the world
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (trireme::world->world_rank() != 1) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new trireme::QuietPrinter);
  }
  return RUN_ALL_TESTS();
}
