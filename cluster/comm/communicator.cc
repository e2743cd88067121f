#include "cluster/comm/communicator.h"

#include <algorithm>

namespace trireme {

Work Communicator::AllReduce(BufferRef buffer) {
  return AllReduce(std::span(&buffer, 1), buffer, SumTree::Even(size(), size()));
}

std::vector<Piece> EvenPieces(int64_t count, int ranks, int64_t unit) {
  CHECK_GE(count, 0);
  CHECK_GE(ranks, 1);
  CHECK_GE(unit, 1);
  const int64_t units = (count + unit - 1) / unit;
  std::vector<Piece> pieces;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const int64_t begin = std::min(count, units * rank / ranks * unit);
    const int64_t end = std::min(count, units * (rank + 1) / ranks * unit);
    pieces.push_back({static_cast<int>(rank), begin, end});
  }
  return pieces;
}

}  // namespace trireme
