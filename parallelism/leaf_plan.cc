#include "parallelism/leaf_plan.h"

#include <algorithm>

namespace trireme {
namespace {

// True when the two nodes are the children of a node of the tree.
bool AreSiblings(const SumTree& tree, SumTree::Node left, SumTree::Node right) {
  if (left.end != right.begin) return false;
  const SumTree::Node parent{left.begin, right.end};
  SumTree::Node node{0, tree.leaves()};
  while (!(node == parent)) {
    if (node.end - node.begin <= parent.end - parent.begin) return false;
    const SumTree::Node child = SumTree::Left(node);
    node = parent.begin < child.end ? child : SumTree::Right(node);
    if (parent.begin < node.begin || parent.end > node.end) return false;
  }
  return SumTree::Left(parent) == left;
}

}  // namespace

Status CheckSumLeaves(int microbatches, int leaves, int data_width) {
  if (leaves < 1 || microbatches % leaves != 0) {
    return InvalidArgumentError(StrCat("batch.sum_leaves: ", leaves, ": expected a divisor of ",
                                       microbatches, " microbatches a step"));
  }
  if (data_width > leaves) {
    return InvalidArgumentError(StrCat("layout.data: ", data_width, ": expected at most ", leaves,
                                       ", the leaves that the sums of a step have "
                                       "(batch.sum_leaves; ",
                                       microbatches, " microbatches a step)"));
  }
  return OkStatus();
}

LeafPlan::LeafPlan(int microbatches, int leaves, int data_width, int data_index)
    : tree_(SumTree::Even(leaves, data_width)) {
  const Status fits = CheckSumLeaves(microbatches, leaves, data_width);
  CHECK(fits.ok()) << fits.message();
  const int leaf_size = microbatches / leaves;
  std::vector<SumTree::Node> stack;
  for (int leaf : tree_.LeavesOf(data_index)) {
    stack.push_back({leaf, leaf + 1});
    accumulators_ = std::max(accumulators_, static_cast<int>(stack.size()));
    for (int i = 0; i < leaf_size; ++i) {
      microbatches_.push_back(leaf * leaf_size + i);
      turns_.push_back({static_cast<int>(stack.size()) - 1, i == 0, 0});
    }
    while (stack.size() >= 2 && AreSiblings(tree_, stack[stack.size() - 2], stack.back())) {
      stack[stack.size() - 2].end = stack.back().end;
      stack.pop_back();
      ++turns_.back().merges;
    }
  }
  partials_ = static_cast<int>(stack.size());
  CHECK(stack == tree_.Partials(data_index)) << "the stack holds what the tree wants";
}

}  // namespace trireme
