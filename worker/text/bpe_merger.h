// The merge step of byte pair encoding: from initial symbols to tokens, lowest rank first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace trireme {

// (left, right) becomes `result`; of all pairs in a word the lowest rank goes first, of equal ranks
// the leftmost.
struct BpeMerge {
  int32_t left = 0;
  int32_t right = 0;
  int32_t result = 0;
  uint32_t rank = 0;
};

// Finds merges by pair. Immutable and thread-safe.
class BpeMerger {
 public:
  // Memory of one caller, kept from word to word.
  struct Scratch {
    std::vector<int32_t> symbols;
    std::vector<uint64_t> found;  // of symbol i with its successor: rank << 32 | result, or kNone
    std::vector<uint32_t> next, previous;
    std::vector<uint64_t> heap;  // rank << 32 | position
  };

  BpeMerger() = default;
  // `merges` in any order; where a pair stands twice, the last wins.
  explicit BpeMerger(const std::vector<BpeMerge>& merges);

  // Merges scratch->symbols until no pair is left to merge, in place. Linear scans for short words,
  // a heap for long ones: O(n log n), n at most 2^32 - 2.
  // Sennrich et al. 2016, arXiv:1508.07909.
  void Merge(Scratch* scratch) const;

 private:
  static constexpr uint64_t kNone = ~uint64_t{0};
  struct Slot {
    uint64_t pair = kNone;
    uint64_t found = kNone;
  };

  uint64_t Find(int32_t left, int32_t right) const {
    const uint64_t pair =
        static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    for (size_t at = pair * 0x9e3779b97f4a7c15u >> shift_;; at = (at + 1) & mask_) {
      if (slots_[at].pair == pair) return slots_[at].found;
      if (slots_[at].pair == kNone) return kNone;
    }
  }
  void MergeShort(Scratch* scratch) const;
  void MergeLong(Scratch* scratch) const;

  std::vector<Slot> slots_ = std::vector<Slot>(2);
  size_t mask_ = 1;
  int shift_ = 63;
};

}  // namespace trireme
