// One run, many layouts: the same bits wherever the order of sums is promised, and a tolerance
// where tensor parallelism regroups them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>

#include "tests/parity/layouts.h"

namespace trireme {
namespace {

struct LayoutCase {
  std::string name;
  int data, tensor, pipeline, zero;
  std::string schedule = "1f1b";
  int threads = 1;
  Recompute recompute = Recompute::kNone;
  bool deferred = false;
};

HarnessOptions With(HarnessOptions options, const LayoutCase& layout) {
  options.data = layout.data;
  options.tensor = layout.tensor;
  options.pipeline = layout.pipeline;
  options.zero = layout.zero;
  options.schedule = layout.schedule;
  options.threads = layout.threads;
  options.recompute = layout.recompute;
  options.deferred = layout.deferred;
  return options;
}

class SameBitsTest : public testing::TestWithParam<LayoutCase> {};

TEST_P(SameBitsTest, LlamaTrainsToTheSerialBits) {
  const HarnessOptions base = BaseRun(TinyLlama());
  static const HarnessResult serial = RunHarness(base);
  ExpectSameBits(serial, RunHarness(With(base, GetParam())));
}

TEST_P(SameBitsTest, TiedGpt2TrainsToTheSerialBits) {
  const HarnessOptions base = BaseRun(TinyGpt2());
  static const HarnessResult serial = RunHarness(base);
  ExpectSameBits(serial, RunHarness(With(base, GetParam())));
}

TEST_P(SameBitsTest, Bf16TrainsToTheSerialBits) {
  HarnessOptions base = BaseRun(TinyLlama());
  base.compute = DType::kBF16;
  static const HarnessResult serial = RunHarness(base);
  ExpectSameBits(serial, RunHarness(With(base, GetParam())));
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, SameBitsTest,
    testing::Values(
        LayoutCase{"data2", 2, 1, 1, 0}, LayoutCase{"data3", 3, 1, 1, 0},
        LayoutCase{"data4", 4, 1, 1, 0}, LayoutCase{"data8", 8, 1, 1, 0},
        LayoutCase{"data2_zero1", 2, 1, 1, 1}, LayoutCase{"data3_zero1", 3, 1, 1, 1},
        LayoutCase{"data4_zero1", 4, 1, 1, 1}, LayoutCase{"pipeline2", 1, 1, 2, 0},
        LayoutCase{"pipeline4", 1, 1, 4, 0}, LayoutCase{"pipeline2_gpipe", 1, 1, 2, 0, "gpipe"},
        LayoutCase{"pipeline4_gpipe", 1, 1, 4, 0, "gpipe"},
        LayoutCase{"threads2", 1, 1, 1, 0, "1f1b", 2},
        LayoutCase{"threads3", 1, 1, 1, 0, "1f1b", 3},
        LayoutCase{"selective", 1, 1, 1, 0, "1f1b", 1, Recompute::kSelective},
        LayoutCase{"full", 1, 1, 1, 0, "1f1b", 1, Recompute::kFull},
        LayoutCase{"deferred", 1, 1, 1, 0, "1f1b", 1, Recompute::kNone, true},
        LayoutCase{"deferred_full_pipeline2", 1, 1, 2, 0, "1f1b", 1, Recompute::kFull, true},
        LayoutCase{"data4_pipeline2_zero1", 4, 1, 2, 1},
        LayoutCase{"data2_pipeline4_zero1_gpipe_full", 2, 1, 4, 1, "gpipe", 1, Recompute::kFull},
        LayoutCase{"data3_pipeline2_zero1_threads2", 3, 1, 2, 1, "1f1b", 2, Recompute::kSelective}),
    [](const auto& info) { return info.param.name; });

// Within one tensor degree, everything else still gives the same bits.
TEST(TensorParityTest, DataAndPipelineKeepTheBitsOfOneTensorDegree) {
  for (const ModelShape& shape : {TinyLlama(), TinyGpt2()}) {
    const HarnessOptions base = BaseRun(shape);
    const HarnessResult tensor = RunHarness(With(base, {"", 1, 2, 1, 0}));
    ExpectSameBits(tensor, RunHarness(With(base, {"", 2, 2, 2, 1})));
    ExpectSameBits(tensor, RunHarness(With(base, {"", 4, 2, 1, 1, "1f1b", 1, Recompute::kFull})));
  }
}

// The tolerances of the fixtures' README for these families: losses, norms, and the update.
TEST(TensorParityTest, TensorDegreesStayWithinRoundingOfSerial) {
  for (const ModelShape& shape : {TinyLlama(), TinyGpt2()}) {
    const HarnessOptions base = BaseRun(shape);
    const HarnessResult serial = RunHarness(base);
    HarnessOptions start = base;
    start.steps = 0;
    const HarnessResult initial = RunHarness(start);
    for (int tensor : {2, 4}) {
      SCOPED_TRACE(tensor);
      const HarnessResult result = RunHarness(With(base, {"", 1, tensor, 1, 0}));
      ASSERT_TRUE(result.status.ok()) << result.status.message();
      double difference = 0, moved = 0;
      for (int step = 0; step < base.steps; ++step) {
        EXPECT_NEAR(result.losses[step] / serial.losses[step], 1.0, 1e-6);
        EXPECT_NEAR(result.norms[step] / serial.norms[step], 1.0, 2e-6);
      }
      for (const auto& [name, values] : serial.state) {
        if (name.starts_with("optimizer.")) continue;
        // Key biases do not change the model (their gradient is zero by algebra).
        if (name.ends_with("c_attn.bias")) continue;
        for (size_t i = 0; i < values.size(); ++i) {
          difference += std::pow(double{result.state.at(name)[i]} - values[i], 2);
          moved += std::pow(double{values[i]} - initial.state.at(name)[i], 2);
        }
      }
      EXPECT_LE(std::sqrt(difference / moved), 5e-5);
    }
  }
}

// The comparison can see an order of sums: other leaves, other bits.
TEST(SumOrderTest, AnotherNumberOfLeavesGivesOtherBits) {
  HarnessOptions base = BaseRun(TinyLlama());
  const HarnessResult eight = RunHarness(base);
  base.leaves = 1;
  const HarnessResult one = RunHarness(base);
  ASSERT_TRUE(one.status.ok());
  int different = 0;
  for (const auto& [name, values] : eight.state) {
    different +=
        std::memcmp(values.data(), one.state.at(name).data(), values.size() * sizeof(float)) != 0;
  }
  EXPECT_GT(different, 0);
}

}  // namespace
}  // namespace trireme
