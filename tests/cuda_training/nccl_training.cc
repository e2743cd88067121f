// Training over NCCL: layouts with the bits of one rank, tensor parallelism within rounding, and
// both recorded with the bits of the same as it is written.
#include <gtest/gtest.h>

#include "tests/cuda_training/nccl_training_world.h"
#include "tests/parity/layouts.h"

namespace trireme {
namespace {

HarnessOptions OverNccl(ModelShape shape, DType compute) {
  shape.layers = 2;
  HarnessOptions options = BaseRun(shape);
  options.device = DeviceKind::kCuda;
  options.compute = compute;
  options.microbatches.resize(2);
  options.leaves = 2;
  options.steps = 3;
  SetUpNcclTraining(&options);
  return options;
}

// Each family in one of the types: what is added there is the same.
std::vector<HarnessOptions> Runs() {
  return {OverNccl(TinyLlama(), DType::kBF16), OverNccl(TinyGpt2(), DType::kF32)};
}

TEST(NcclTrainingTest, LayoutsHaveTheBitsOfOneRank) {
  for (const HarnessOptions& run : Runs()) ExpectTheBitsOfOneRank(run);
}

TEST(NcclTrainingTest, StepsAsTheyAreWrittenHaveTheSameBits) {
  HarnessOptions run = OverNccl(TinyGpt2(), DType::kBF16);
  run.data = run.tensor = 2;
  run.zero = 1;
  const HarnessResult recorded = RunHarness(run);
  EXPECT_EQ(recorded.replayed, run.steps);
  run.record = false;
  const HarnessResult eager = RunHarness(run);
  ExpectSameBits(recorded, eager);
  EXPECT_EQ(eager.replayed, 0);
}

TEST(NcclTrainingTest, TensorParallelismStaysWithinRounding) {
  for (const ModelShape& shape : {TinyLlama(), TinyGpt2()}) {
    HarnessOptions run = OverNccl(shape, DType::kF32);
    const HarnessResult one = RunHarness(run);
    ASSERT_TRUE(one.status.ok()) << one.status.message();
    run.tensor = 2;
    const HarnessResult two = RunHarness(run);
    ASSERT_TRUE(two.status.ok()) << two.status.message();
    EXPECT_EQ(two.replayed, run.steps);
    for (size_t step = 0; step < one.losses.size(); ++step) {
      EXPECT_NEAR(two.losses[step] / one.losses[step], 1.0, 1e-6) << step;
      EXPECT_NEAR(two.norms[step] / one.norms[step], 1.0, 1e-5) << step;
    }
  }
}

}  // namespace
}  // namespace trireme
