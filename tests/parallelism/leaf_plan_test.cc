#include "parallelism/leaf_plan.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

TEST(LeafPlanTest, WidthsAndLeavesThatDoNotFitAreRefused) {
  EXPECT_TRUE(CheckSumLeaves(8, 8, 3).ok());
  EXPECT_EQ(CheckSumLeaves(12, 8, 2).message(),
            "batch.sum_leaves: 8: expected a divisor of 12 microbatches a step");
  EXPECT_EQ(CheckSumLeaves(8, 4, 5).message(),
            "layout.data: 5: expected at most 4, the leaves that the sums of a step have "
            "(batch.sum_leaves; 8 microbatches a step)");
}

TEST(LeafPlanTest, AccumulatorsAreAboutTheLogarithmOfTheLeaves) {
  // Leaves 0-7 on one rank: after leaf 6 the stack holds [0,4), [4,6), 6 and then 7.
  EXPECT_EQ(LeafPlan(8, 8, 1, 0).accumulators(), 4);
  EXPECT_EQ(LeafPlan(8, 8, 1, 0).partials(), 1);
  EXPECT_EQ(LeafPlan(8, 8, 2, 1).accumulators(), 3);
  EXPECT_EQ(LeafPlan(8, 8, 4, 2).accumulators(), 2);
  EXPECT_EQ(LeafPlan(8, 8, 8, 5).accumulators(), 1);
  EXPECT_EQ(LeafPlan(64, 1, 1, 0).accumulators(), 1);
  // Width 3 deals 2, 3 and 3 leaves: [0,2) | [2,4) 4 | 5 [6,8).
  EXPECT_EQ(LeafPlan(8, 8, 3, 0).partials(), 1);
  EXPECT_EQ(LeafPlan(8, 8, 3, 1).partials(), 2);
  EXPECT_EQ(LeafPlan(8, 8, 3, 2).partials(), 2);
}

// Numbers that show the order in which they were added.
std::string TreeText(SumTree::Node node) {
  if (node.end - node.begin == 1) return std::to_string(node.begin);
  return "(" + TreeText(SumTree::Left(node)) + "+" + TreeText(SumTree::Right(node)) + ")";
}

TEST(LeafPlanTest, MergesFollowTheTreeForEveryWidth) {
  for (int leaves : {1, 2, 3, 5, 8, 16}) {
    for (int width = 1; width <= leaves; ++width) {
      for (int index = 0; index < width; ++index) {
        const LeafPlan plan(leaves * 3, leaves, width, index);
        std::vector<std::string> accumulators(plan.accumulators());
        for (size_t i = 0; i < plan.microbatches().size(); ++i) {
          const LeafPlan::Turn& turn = plan.turn(static_cast<int>(i));
          const int leaf = plan.microbatches()[i] / 3;
          EXPECT_EQ(turn.first, plan.microbatches()[i] % 3 == 0);
          accumulators[turn.accumulator] = std::to_string(leaf);
          for (int k = 0; k < turn.merges; ++k) {
            std::string& below = accumulators[turn.accumulator - k - 1];
            below = "(" + below + "+" + accumulators[turn.accumulator - k] + ")";
          }
        }
        const auto partials = plan.tree().Partials(index);
        ASSERT_EQ(static_cast<int>(partials.size()), plan.partials());
        for (size_t k = 0; k < partials.size(); ++k) {
          EXPECT_EQ(accumulators[k], TreeText(partials[k])) << leaves << " " << width;
        }
      }
    }
  }
}

}  // namespace
}  // namespace trireme
