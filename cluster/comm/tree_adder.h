// TreeAdder: the additions of one SumTree, applied to memory block by block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cluster/comm/sum_tree.h"
#include "cluster/device/dtype.h"

namespace trireme {

// Adds the contributions of a SumTree in its order. The association is per element, so how a range
// is cut into calls does not show in the bits. Not thread-safe: temporaries are kept inside.
class TreeAdder {
 public:
  // dtype: kF32, kF64, kI64, or kBF16 (each node adds in f32 and rounds half to even). Else CHECKs.
  TreeAdder(const SumTree& tree, DType dtype);

  // inputs[c]: `count` elements of tree.Contributions()[c]. `out` may be one of the inputs, but
  // must not overlap one at another offset.
  void Add(const std::byte* const* inputs, std::byte* out, int64_t count);

  static bool Supports(DType dtype);

 private:
  static constexpr int64_t kBlock = 2048;  // elements: temporaries stay in the first-level cache
  struct Step {
    int left;  // slots: contributions first, then temporaries
    int right;
    int out;
  };
  int Build(const std::vector<SumTree::Contribution>& contributions, SumTree::Node node);
  void AddBlock(const std::byte* a, const std::byte* b, std::byte* out, int64_t count) const;

  DType dtype_;
  int64_t element_bytes_;
  int inputs_;
  int temporaries_ = 0;
  std::vector<int> free_;
  std::vector<Step> steps_;
  std::vector<std::byte> scratch_;
  std::vector<const std::byte*> slots_;
};

}  // namespace trireme
