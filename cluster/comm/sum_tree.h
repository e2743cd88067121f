// SumTree: the fixed order in which the leaves of a global batch are added, and who holds them.
// The order never changes with the number of ranks: when leaves move, the sums do not change.
#pragma once

#include <cstdint>
#include <vector>

namespace trireme {

// A balanced binary tree over leaves 0 .. leaves-1. A node over [begin, end) with n = end - begin >
// 1 leaves adds its left child [begin, begin + bit_ceil(n) / 2) and its right child, in this order.
class SumTree {
 public:
  // The leaves of one node of the tree.
  struct Node {
    int begin;
    int end;
    friend bool operator==(const Node&, const Node&) = default;
  };

  // owner_of_leaf[l]: the rank that holds leaf l. Any assignment is allowed; consecutive runs keep
  // the number of partial sums small.
  SumTree(int ranks, std::vector<int> owner_of_leaf);
  // Leaves dealt in consecutive runs: rank r holds [r * leaves / ranks, (r + 1) * leaves / ranks).
  static SumTree Even(int leaves, int ranks);

  int leaves() const { return static_cast<int>(owner_of_leaf_.size()); }
  int ranks() const { return ranks_; }
  int owner(int leaf) const { return owner_of_leaf_[leaf]; }
  std::vector<int> LeavesOf(int rank) const;

  // The largest nodes that a rank holds whole, ascending: what it contributes to a sum, one buffer
  // each. A rank without leaves contributes nothing.
  std::vector<Node> Partials(int rank) const;
  // All contributions in leaf order, with their ranks: the inputs of the final additions.
  struct Contribution {
    int rank;
    int index;  // which of the rank's partials
    Node node;
  };
  std::vector<Contribution> Contributions() const;

  static Node Left(Node node);
  static Node Right(Node node);

 private:
  int ranks_;
  std::vector<int> owner_of_leaf_;
};

}  // namespace trireme
