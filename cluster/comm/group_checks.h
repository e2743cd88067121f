// What every implementation of Communicator demands of its callers.
#pragma once

#include <span>
#include <vector>

#include "cluster/comm/comm_engine.h"

namespace trireme {

// A run of elements of a buffer.
struct ElementRange {
  int64_t begin;
  int64_t end;
};
using ElementRanges = std::vector<std::vector<ElementRange>>;  // of each rank

// CHECKs that the partial sums are those that the tree wants of this rank.
void CheckPartials(const CommGroup& group, std::span<const BufferRef> partials, BufferRef out,
                   const SumTree& tree);
// What each rank owns of `count` elements; neighbours in the list are joined. CHECKs the bounds.
ElementRanges RangesOf(const CommGroup& group, std::span<const Piece> pieces, int64_t count);
// The blocks of an AllToAll, one behind the other. CHECKs that they fit in `total` elements.
std::vector<ElementRange> BlocksOf(const CommGroup& group, std::span<const int64_t> counts,
                                   int64_t total);

// Up to this many ranks, an AllReduce up to this size is one exchange of everything with everyone.
inline constexpr int kFlatRanksMax = 16;
inline constexpr int64_t kFlatBytesMax = 16 << 10;

}  // namespace trireme
