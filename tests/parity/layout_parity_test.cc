// One run, many layouts: the same bits wherever the order of sums is promised, and a tolerance
// where tensor parallelism regroups them.
#include <gtest/gtest.h>

#include <cstring>
#include <string>

#include "tests/parity/layouts.h"

namespace trireme {
namespace {

class SameBitsTest : public testing::TestWithParam<ModelAndLayout> {};

TEST_P(SameBitsTest, TrainsToTheSerialBits) {
  const auto& [model, layout] = GetParam();
  ExpectSameBits(OfTensorDegree(model, 1), RunHarness(With(model.Run(), layout)));
}

INSTANTIATE_TEST_SUITE_P(Layouts, SameBitsTest,
                         testing::Combine(testing::ValuesIn(ParityModels()),
                                          testing::ValuesIn(SameBitsLayouts())),
                         NameOf);

class TensorParityTest : public testing::TestWithParam<ModelAndLayout> {};

TEST_P(TensorParityTest, TrainsToTheBitsOfItsDegreeAndWithinRoundingOfSerial) {
  const auto& [model, layout] = GetParam();
  const HarnessResult result = RunHarness(With(model.Run(), layout));
  ExpectSameBits(OfTensorDegree(model, layout.tensor), result);
  if (model.compute != DType::kF32) return;  // the fixtures have no tolerance for it
  ExpectNear(result, OfTensorDegree(model, 1), InitialState(model));
}

INSTANTIATE_TEST_SUITE_P(Layouts, TensorParityTest,
                         testing::Combine(testing::ValuesIn(ParityModels()),
                                          testing::ValuesIn(TensorLayouts())),
                         NameOf);

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
