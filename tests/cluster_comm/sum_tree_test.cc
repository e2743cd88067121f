#include "cluster/comm/sum_tree.h"

#include <gtest/gtest.h>

#include <string>

#include "cluster/comm/communicator.h"
#include "cluster/comm/tree_adder.h"

namespace trireme {
namespace {

// The sum over `node` as text: "((0+1)+2)".
std::string Expression(SumTree::Node node) {
  if (node.end - node.begin == 1) return std::to_string(node.begin);
  return "(" + Expression(SumTree::Left(node)) + "+" + Expression(SumTree::Right(node)) + ")";
}

// The same from contributions: a node that is one of them prints its own leaves' sum.
std::string Combine(const SumTree& tree, SumTree::Node node) {
  for (const auto& contribution : tree.Contributions()) {
    if (contribution.node == node) {
      EXPECT_EQ(tree.Partials(contribution.rank)[contribution.index], node);
      return Expression(node);
    }
  }
  return "(" + Combine(tree, SumTree::Left(node)) + "+" + Combine(tree, SumTree::Right(node)) + ")";
}

TEST(SumTreeTest, OrderIsBalancedWithTheLargestPowerOfTwoOnTheLeft) {
  EXPECT_EQ(Expression({0, 8}), "(((0+1)+(2+3))+((4+5)+(6+7)))");
  EXPECT_EQ(Expression({0, 6}), "(((0+1)+(2+3))+(4+5))");
  EXPECT_EQ(Expression({0, 12}), "((((0+1)+(2+3))+((4+5)+(6+7)))+((8+9)+(10+11)))");
  EXPECT_EQ(Expression({0, 1}), "0");
}

TEST(SumTreeTest, PartialsTileTheLeavesAndCombineToTheSerialExpression) {
  for (int leaves : {6, 8, 12}) {
    for (int ranks = 1; ranks <= 9; ++ranks) {
      const SumTree tree = SumTree::Even(leaves, ranks);
      std::vector<int> held(leaves, 0);
      for (int rank = 0; rank < ranks; ++rank) {
        int last = -1;
        std::vector<int> from_partials;
        for (const auto& node : tree.Partials(rank)) {
          EXPECT_GT(node.begin, last) << "ascending";
          last = node.begin;
          for (int leaf = node.begin; leaf < node.end; ++leaf) {
            EXPECT_EQ(tree.owner(leaf), rank);
            ++held[leaf];
            from_partials.push_back(leaf);
          }
        }
        EXPECT_EQ(from_partials, tree.LeavesOf(rank));
      }
      EXPECT_EQ(held, std::vector<int>(leaves, 1)) << leaves << " leaves, " << ranks << " ranks";
      EXPECT_EQ(Combine(tree, {0, leaves}), Expression({0, leaves}))
          << leaves << " leaves, " << ranks << " ranks";
    }
  }
}

TEST(SumTreeTest, EvenDealsConsecutiveRuns) {
  const SumTree tree = SumTree::Even(8, 3);
  EXPECT_EQ(tree.LeavesOf(0), (std::vector<int>{0, 1}));
  EXPECT_EQ(tree.LeavesOf(1), (std::vector<int>{2, 3, 4}));
  EXPECT_EQ(tree.LeavesOf(2), (std::vector<int>{5, 6, 7}));
  EXPECT_EQ(tree.Partials(1), (std::vector<SumTree::Node>{{2, 4}, {4, 5}}));
}

TEST(SumTreeTest, AnyAssignmentOfLeavesGivesTheSameSum) {
  const SumTree tree(3, {2, 0, 0, 2, 1, 1, 2, 0});
  EXPECT_EQ(Combine(tree, {0, 8}), Expression({0, 8}));
  EXPECT_EQ(tree.Partials(1), (std::vector<SumTree::Node>{{4, 6}}));
}

TEST(TreeAdderTest, AddsInPlaceOfAnyContribution) {
  const SumTree tree = SumTree::Even(7, 7);
  const int64_t count = 5000;  // more than one block
  for (int in_place = 0; in_place < 7; ++in_place) {
    std::vector<std::vector<float>> leaves(7, std::vector<float>(count));
    for (int l = 0; l < 7; ++l) {
      for (int64_t i = 0; i < count; ++i) leaves[l][i] = 1.0f / static_cast<float>(3 + l * i);
    }
    std::vector<float> expected(count);
    for (int64_t i = 0; i < count; ++i) {
      expected[i] = ((leaves[0][i] + leaves[1][i]) + (leaves[2][i] + leaves[3][i])) +
                    ((leaves[4][i] + leaves[5][i]) + leaves[6][i]);
    }
    std::vector<const std::byte*> inputs;
    for (auto& leaf : leaves) inputs.push_back(reinterpret_cast<std::byte*>(leaf.data()));
    TreeAdder adder(tree, DType::kF32);
    adder.Add(inputs.data(), reinterpret_cast<std::byte*>(leaves[in_place].data()), count);
    EXPECT_EQ(leaves[in_place], expected) << "out is leaf " << in_place;
  }
}

TEST(EvenPiecesTest, PiecesTileTheElementsInUnits) {
  for (int64_t count : {0, 1, 15, 16, 17, 100, 1000}) {
    for (int ranks : {1, 2, 3, 4, 7}) {
      const auto pieces = EvenPieces(count, ranks);
      ASSERT_EQ(static_cast<int>(pieces.size()), ranks);
      int64_t end = 0;
      for (int r = 0; r < ranks; ++r) {
        EXPECT_EQ(pieces[r].owner, r);
        EXPECT_EQ(pieces[r].begin, end);
        EXPECT_TRUE(pieces[r].end % 16 == 0 || pieces[r].end == count);
        end = pieces[r].end;
      }
      EXPECT_EQ(end, count);
    }
  }
}

}  // namespace
}  // namespace trireme
