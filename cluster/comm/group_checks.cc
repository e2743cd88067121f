#include "cluster/comm/group_checks.h"

namespace trireme {

void CheckPartials(const CommGroup& group, std::span<const BufferRef> partials, BufferRef out,
                   const SumTree& tree) {
  CHECK_EQ(tree.ranks(), static_cast<int>(group.members.size()))
      << group.Describe() << ": a SumTree for another group";
  CHECK_EQ(partials.size(), tree.Partials(group.rank).size())
      << group.Describe() << ": rank " << group.rank << " brings another number of partial sums "
      << "than its SumTree says";
  for (const BufferRef& partial : partials) {
    CHECK(partial.dtype == out.dtype)
        << group.Describe() << ": partial sums of " << DTypeName(partial.dtype) << ", out of "
        << DTypeName(out.dtype);
    CHECK_EQ(partial.count, out.count) << group.Describe() << ": elements of a partial sum";
  }
}

ElementRanges RangesOf(const CommGroup& group, std::span<const Piece> pieces, int64_t count) {
  const int size = static_cast<int>(group.members.size());
  ElementRanges ranges_of(size);
  for (const Piece& piece : pieces) {
    CHECK(piece.owner >= 0 && piece.owner < size)
        << group.Describe() << ": a piece of rank " << piece.owner << " of " << size;
    CHECK(piece.begin >= 0 && piece.begin <= piece.end && piece.end <= count)
        << group.Describe() << ": piece [" << piece.begin << ", " << piece.end << ") of " << count
        << " elements";
    if (piece.begin == piece.end) continue;
    auto& ranges = ranges_of[piece.owner];
    if (!ranges.empty() && ranges.back().end == piece.begin) {
      ranges.back().end = piece.end;
    } else {
      ranges.push_back({piece.begin, piece.end});
    }
  }
  return ranges_of;
}

std::vector<ElementRange> BlocksOf(const CommGroup& group, std::span<const int64_t> counts,
                                   int64_t total) {
  CHECK_EQ(counts.size(), group.members.size()) << group.Describe();
  std::vector<ElementRange> blocks;
  int64_t begin = 0;
  for (int64_t count : counts) {
    CHECK_GE(count, 0);
    blocks.push_back({begin, begin + count});
    begin += count;
  }
  CHECK_LE(begin, total) << group.Describe() << ": the blocks exceed the buffer";
  return blocks;
}

}  // namespace trireme
