// The training path with its memory on a GPU: the SIMT backend's device memory crashes whatever on
// the host touches it, so these runs show that nothing does, and that the kernels together train as
// the CPU's do.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "tests/parity/layouts.h"

namespace trireme {
namespace {

HarnessOptions ShortRun(const ModelShape& shape) {
  HarnessOptions options = BaseRun(shape);
  options.microbatches.resize(2);
  options.leaves = 2;
  options.steps = 2;
  return options;
}

HarnessOptions OnGpu(HarnessOptions options) {
  options.device = DeviceKind::kCuda;
  return options;
}

double RelativeDistance(const std::string& name, const std::vector<float>& a,
                        const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (HasZeroGradient(name, i, a.size())) continue;
    difference += std::pow(double{a[i]} - b[i], 2);
    size += double{b[i]} * b[i];
  }
  return size == 0 ? std::sqrt(difference) : std::sqrt(difference / size);
}

void ExpectNear(const HarnessResult& gpu, const HarnessResult& cpu, double loss, double gradient) {
  ASSERT_TRUE(gpu.status.ok()) << gpu.status.message();
  ASSERT_TRUE(cpu.status.ok()) << cpu.status.message();
  ASSERT_EQ(gpu.losses.size(), cpu.losses.size());
  for (size_t step = 0; step < cpu.losses.size(); ++step) {
    EXPECT_NEAR(gpu.losses[step] / cpu.losses[step], 1.0, loss) << "step " << step + 1;
    EXPECT_NEAR(gpu.norms[step] / cpu.norms[step], 1.0, gradient) << "step " << step + 1;
  }
  ASSERT_EQ(gpu.gradients.size(), cpu.gradients.size());
  for (const auto& [name, values] : cpu.gradients) {
    EXPECT_LE(RelativeDistance(name, gpu.gradients.at(name), values), gradient) << name;
  }
}

// Tolerances: the fixtures' for f32; for bf16 a few of its roundings, whose places differ.
TEST(CudaTrainingTest, TrainsAsTheCpuDoes) {
  for (const ModelShape& shape : {TinyLlama(), TinyGpt2()}) {
    HarnessOptions run = ShortRun(shape);
    ExpectNear(RunHarness(OnGpu(run)), RunHarness(run), 1e-6, 5e-6);
    run.compute = DType::kBF16;
    ExpectNear(RunHarness(OnGpu(run)), RunHarness(run), 2e-3, 3e-2);
    run.master = DType::kBF16;
    ExpectNear(RunHarness(OnGpu(run)), RunHarness(run), 2e-3, 3e-2);
  }
}

TEST(CudaTrainingTest, RecomputeAndReruns) {
  for (const ModelShape& shape : {TinyLlama(), TinyGpt2()}) {
    HarnessOptions run = OnGpu(ShortRun(shape));
    run.steps = 1;
    const HarnessResult first = RunHarness(run);
    for (const Recompute recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
      run.recompute = recompute;
      ExpectSameBits(RunHarness(run), first);
    }
  }
}

// Ranks that share a GPU, through pinned memory of the host: the sums keep their order, so layouts
// along data and pipeline have the bits of one rank.
TEST(CudaTrainingTest, LayoutsHaveTheBitsOfOneRank) {
  for (const ModelShape& shape : {TinyLlama(), TinyGpt2()}) {
    HarnessOptions run = OnGpu(ShortRun(shape));
    run.steps = 1;
    ExpectTheBitsOfOneRank(run);
  }
}

// Weights that are rounded at random are rounded alike in every layout, and when replayed each step
// with the random bits of its own number.
TEST(CudaTrainingTest, WithoutMastersLayoutsAndReplaysHaveTheBitsOfOneEagerRank) {
  ModelShape shape = TinyGpt2();
  shape.layers = 2;
  HarnessOptions run = OnGpu(ShortRun(shape));
  run.compute = run.master = DType::kBF16;
  run.steps = 3;
  ExpectTheBitsOfOneRank(run);
  const HarnessResult replayed = RunHarness(run);
  EXPECT_EQ(replayed.replayed, 1);
  run.record = false;
  ExpectSameBits(RunHarness(run), replayed);
}

// Ranks that are alone find their addresses for the first time in two steps; all others are
// replayed.
TEST(CudaTrainingTest, RecordedStepsHaveTheBitsOfEagerOnes) {
  for (ModelShape shape : {TinyLlama(), TinyGpt2()}) {
    shape.layers = 2;
    HarnessOptions run = OnGpu(ShortRun(shape));
    run.steps = 4;
    run.lr = [](int64_t step) { return 1e-3 / static_cast<double>(step); };
    run.record = false;
    const HarnessResult eager = RunHarness(run);
    EXPECT_EQ(eager.replayed, 0);
    run.record = true;
    for (const auto& [data, pipeline] : {std::pair(1, 1), std::pair(2, 2)}) {
      SCOPED_TRACE(testing::Message() << "data " << data << " pipeline " << pipeline);
      run.data = data;
      run.pipeline = pipeline;
      run.zero = data - 1;
      const HarnessResult recorded = RunHarness(run);
      ExpectSameBits(recorded, eager);
      EXPECT_EQ(recorded.replayed, data * pipeline == 1 ? 2 : 4);
    }
  }
}

TEST(CudaTrainingTest, TensorParallelismStaysWithinRounding) {
  for (ModelShape shape : {TinyLlama(), TinyGpt2()}) {
    shape.layers = 2;
    HarnessOptions run = ShortRun(shape);
    const HarnessResult cpu = RunHarness(run);
    run = OnGpu(run);
    run.tensor = 2;
    run.record = false;
    const HarnessResult eager = RunHarness(run);
    ExpectNear(eager, cpu, 1e-6, 5e-6);
    run.record = true;
    const HarnessResult recorded = RunHarness(run);
    ExpectSameBits(recorded, eager);
    EXPECT_EQ(recorded.replayed, run.steps);
  }
}

}  // namespace
}  // namespace trireme
