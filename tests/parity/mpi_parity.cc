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

void ExpectSerialBits(const HarnessOptions& options) {
  const int rank = world->world_rank() - 1;
  if (rank < 0 || rank >= options.ranks()) return;
  HarnessOptions alone = options;
  alone.data = alone.pipeline = 1;
  alone.zero = 0;
  // Within one tensor degree; degree 2 is two threads of this process.
  const HarnessResult serial = RunHarness(alone);
  ASSERT_TRUE(serial.status.ok()) << serial.status.message();
  const HarnessRank mine = RunHarnessRank(options, world, rank, 1);
  ASSERT_TRUE(mine.status.ok()) << mine.status.message();
  EXPECT_EQ(mine.norms, serial.norms);
  for (const HarnessRank::Part& part : mine.state) {
    std::vector<float> expected(part.values.size());
    CopyRegion(part.box, Box::Whole(part.shape),
               reinterpret_cast<const std::byte*>(serial.state.at(part.name).data()), part.box,
               reinterpret_cast<std::byte*>(expected.data()), sizeof(float));
    EXPECT_EQ(std::memcmp(part.values.data(), expected.data(), expected.size() * sizeof(float)), 0)
        << part.name << " " << part.box.ToString();
  }
}

HarnessOptions With(HarnessOptions options, int data, int tensor, int pipeline, int zero) {
  options.data = data;
  options.tensor = tensor;
  options.pipeline = pipeline;
  options.zero = zero;
  return options;
}

TEST(MpiParityTest, DataParallelHasTheSerialBits) {
  ExpectSerialBits(With(BaseRun(TinyLlama()), 4, 1, 1, 0));
  ExpectSerialBits(With(BaseRun(TinyLlama()), 3, 1, 1, 1));
}

TEST(MpiParityTest, PipelineWithTiedEmbeddingsHasTheSerialBits) {
  ExpectSerialBits(With(BaseRun(TinyGpt2()), 2, 1, 2, 1));
  ExpectSerialBits(With(BaseRun(TinyGpt2()), 1, 1, 4, 0));
}

TEST(MpiParityTest, TensorAndDataHaveTheBitsOfTheTensorDegree) {
  ExpectSerialBits(With(BaseRun(TinyLlama()), 2, 2, 1, 1));
}

TEST(MpiParityTest, EightRanks) {
  if (world->world_size() < 9) GTEST_SKIP() << "needs mpirun -n 9";
  ExpectSerialBits(With(BaseRun(TinyLlama()), 4, 1, 2, 1));
  ExpectSerialBits(With(BaseRun(TinyGpt2()), 2, 2, 2, 1));
}

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
  testing::InitGoogleTest(&argc, argv);
  auto factory = trireme::MpiWorld();
  if (!factory.ok()) {
    std::cerr << factory.status().message() << "\n";
    return 1;
  }
  trireme::world = factory->get();
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (trireme::world->world_rank() != 1) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new trireme::QuietPrinter);
  }
  return RUN_ALL_TESTS();
}
