// Training over the real NCCL, ranks on one GPU: the layouts of cuda_training_test.cc with the bits
// of one rank, eager and recorded, and tensor parallelism within rounding.
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "cluster/comm/nccl_group.h"
#include "cluster/device/buffer.h"
#include "cluster/device/ordered_sum.h"
#include "tests/harness/nccl_on_one_gpu.h"
#include "tests/parity/layouts.h"

namespace trireme {
namespace {

class NcclTrainingTest : public testing::Test {
 protected:
  // What is loaded, or measured, when it is first launched may wait for all kernels that run, and
  // those of another rank for this one's message. Each test begins with a run of one rank, which
  // loads most; here is what only several launch.
  static void SetUpTestSuite() {
    setenv("TRIREME_MATMUL_TUNE", "0", 1);
    NcclOfRank(0);  // loads all
    Stream stream(Gpu{0});
    const Buffer values(1 << 12, DeviceKind::kCuda);
    const std::vector<const void*> inputs = {values.data(), values.data()};
    const std::vector<uint8_t> additions = {0, 1};
    for (const DType dtype : {DType::kF32, DType::kF64, DType::kI64}) {
      SumInOrder(stream, dtype, SumOrder(additions), inputs, values.data(), 64);
    }
    stream.Synchronize();
  }
  static HarnessOptions OverNccl(const ModelShape& shape) {
    HarnessOptions options = BaseRun(shape);
    options.device = DeviceKind::kCuda;
    options.microbatches.resize(2);
    options.leaves = 2;
    options.steps = 4;
    options.gpu_world = [](int rank, CommunicatorFactory* host, Stream* stream) {
      return MakeNcclFactory(NcclOfRank(rank), host, stream, {});
    };
    return options;
  }
};

TEST_F(NcclTrainingTest, LayoutsHaveTheBitsOfOneRank) {
  for (const ModelShape& shape : {TinyLlama(), TinyGpt2()}) {
    for (const DType compute : {DType::kF32, DType::kBF16}) {
      HarnessOptions run = OverNccl(shape);
      run.compute = compute;
      const HarnessResult one = RunHarness(run);
      for (const auto& [data, pipeline] : {std::pair(2, 1), std::pair(1, 2), std::pair(2, 2)}) {
        SCOPED_TRACE(testing::Message() << "data " << data << " pipeline " << pipeline);
        run.data = data;
        run.pipeline = pipeline;
        run.zero = data > 1 ? 1 : 0;
        const HarnessResult layout = RunHarness(run);
        ExpectSameBits(layout, one);
        if (pipeline == 1) {
          EXPECT_EQ(layout.replayed, 2) << "steps of data ranks are recorded";
        }
      }
    }
  }
}

TEST_F(NcclTrainingTest, TensorParallelismStaysWithinRounding) {
  for (const ModelShape& shape : {TinyLlama(), TinyGpt2()}) {
    HarnessOptions run = OverNccl(shape);
    const HarnessResult one = RunHarness(run);
    ASSERT_TRUE(one.status.ok()) << one.status.message();
    run.tensor = 2;
    const HarnessResult two = RunHarness(run);
    ASSERT_TRUE(two.status.ok()) << two.status.message();
    for (size_t step = 0; step < one.losses.size(); ++step) {
      EXPECT_NEAR(two.losses[step] / one.losses[step], 1.0, 1e-6) << step;
      EXPECT_NEAR(two.norms[step] / one.norms[step], 1.0, 1e-5) << step;
    }
  }
}

}  // namespace
}  // namespace trireme
