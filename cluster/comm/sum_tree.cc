#include "cluster/comm/sum_tree.h"

#include <glog/logging.h>

#include <bit>
#include <utility>

namespace trireme {
namespace {

// Calls `visit` with the largest nodes of the subtree at `node` whose leaves have one owner.
template <typename F>
void VisitWholeNodes(const SumTree& tree, SumTree::Node node, const F& visit) {
  bool one_owner = true;
  for (int leaf = node.begin + 1; leaf < node.end; ++leaf) {
    one_owner = one_owner && tree.owner(leaf) == tree.owner(node.begin);
  }
  if (one_owner) {
    visit(tree.owner(node.begin), node);
    return;
  }
  VisitWholeNodes(tree, SumTree::Left(node), visit);
  VisitWholeNodes(tree, SumTree::Right(node), visit);
}

}  // namespace

SumTree::SumTree(int ranks, std::vector<int> owner_of_leaf)
    : ranks_(ranks), owner_of_leaf_(std::move(owner_of_leaf)) {
  CHECK_GE(ranks_, 1);
  CHECK(!owner_of_leaf_.empty()) << "a sum needs at least one leaf";
  for (int owner : owner_of_leaf_) {
    CHECK_GE(owner, 0);
    CHECK_LT(owner, ranks_);
  }
}

SumTree SumTree::Even(int leaves, int ranks) {
  CHECK_GE(leaves, 1);
  CHECK_GE(ranks, 1);
  std::vector<int> owner_of_leaf(leaves);
  for (int rank = 0; rank < ranks; ++rank) {
    const int64_t begin = int64_t{rank} * leaves / ranks;
    const int64_t end = (int64_t{rank} + 1) * leaves / ranks;
    for (int64_t leaf = begin; leaf < end; ++leaf) owner_of_leaf[leaf] = rank;
  }
  return SumTree(ranks, std::move(owner_of_leaf));
}

std::vector<int> SumTree::LeavesOf(int rank) const {
  std::vector<int> held;
  for (int leaf = 0; leaf < leaves(); ++leaf) {
    if (owner_of_leaf_[leaf] == rank) held.push_back(leaf);
  }
  return held;
}

std::vector<SumTree::Node> SumTree::Partials(int rank) const {
  std::vector<Node> nodes;
  VisitWholeNodes(*this, {0, leaves()}, [&](int owner, Node node) {
    if (owner == rank) nodes.push_back(node);
  });
  return nodes;
}

std::vector<SumTree::Contribution> SumTree::Contributions() const {
  std::vector<Contribution> contributions;
  std::vector<int> count_of_rank(ranks_, 0);
  VisitWholeNodes(*this, {0, leaves()}, [&](int owner, Node node) {
    contributions.push_back({owner, count_of_rank[owner]++, node});
  });
  return contributions;
}

SumTree::Node SumTree::Left(Node node) {
  const unsigned count = static_cast<unsigned>(node.end - node.begin);
  CHECK_GT(count, 1u) << "a leaf has no children";
  return {node.begin, node.begin + static_cast<int>(std::bit_ceil(count) / 2)};
}

SumTree::Node SumTree::Right(Node node) { return {Left(node).end, node.end}; }

}  // namespace trireme
