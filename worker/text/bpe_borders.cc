#include "worker/text/bpe_borders.h"

#include <algorithm>

namespace trireme {
namespace {

constexpr size_t kSideMax = 3;  // bytes of a side that are compared

}  // namespace

BpeBorders::BpeBorders(const std::vector<BpeMerge>& merges,
                       const std::vector<std::string>& tokens) {
  crossed_.assign((size_t{1} << kBits) / 64, 0);
  short_side_.assign(size_t{1} << 16, false);
  for (const BpeMerge& merge : merges) {
    const std::string &left = tokens[merge.left], &right = tokens[merge.right];
    // Only what can stand at a border between characters of three bytes.
    if (left.empty() || right.empty() || !IsThreeBytes(right[0]) ||
        static_cast<uint8_t>(left.back()) < 0x80) {
      continue;
    }
    const size_t before = std::min(left.size(), kSideMax), after = std::min(right.size(), kSideMax);
    const size_t at = IndexOf(Bytes(left.data() + left.size() - before, static_cast<int>(before)),
                              Bytes(right.data(), static_cast<int>(after)));
    crossed_[at / 64] |= uint64_t{1} << at % 64;
    if (before < kSideMax || after < kSideMax) short_side_[ShortAt(left.back(), right[0])] = true;
  }
}

bool BpeBorders::MayCrossShort(uint32_t before, uint32_t after) const {
  // The last one, two, three bytes before and the first ones after.
  const uint32_t befores[] = {before >> 16, before >> 8, before};
  const uint32_t afters[] = {after & 0xff, after & 0xffff, after};
  for (const uint32_t b : befores) {
    for (const uint32_t a : afters) {
      if (Has(b, a)) return true;
    }
  }
  return false;
}

}  // namespace trireme
