#include "worker/text/bpe_merger.h"

#include <glog/logging.h>

#include <algorithm>
#include <functional>

namespace trireme {
namespace {

// Above this many symbols the heap is faster than scanning for the minimum each time.
constexpr size_t kShortSymbolsMax = 40;

}  // namespace

BpeMerger::BpeMerger(const std::vector<BpeMerge>& merges) {
  int bits = 1;
  while ((size_t{1} << bits) < merges.size() * 2 + 2) ++bits;
  slots_.assign(size_t{1} << bits, Slot{});
  mask_ = slots_.size() - 1;
  shift_ = 64 - bits;
  for (const BpeMerge& merge : merges) {
    CHECK(merge.left >= 0 && merge.right >= 0 && merge.result >= 0);
    const uint64_t pair =
        static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right);
    size_t at = pair * 0x9e3779b97f4a7c15u >> shift_;
    while (slots_[at].pair != kNone && slots_[at].pair != pair) at = (at + 1) & mask_;
    slots_[at].pair = pair;
    slots_[at].found =
        static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint32_t>(merge.result);
  }
}

void BpeMerger::Merge(Scratch* scratch) const {
  if (scratch->symbols.size() < 2) return;
  if (scratch->symbols.size() <= kShortSymbolsMax) {
    MergeShort(scratch);
  } else {
    MergeLong(scratch);
  }
}

void BpeMerger::MergeShort(Scratch* scratch) const {
  size_t n = scratch->symbols.size();
  scratch->found.resize(n);
  int32_t* const symbols = scratch->symbols.data();
  uint64_t* const found = scratch->found.data();
  for (size_t i = 0; i + 1 < n; ++i) found[i] = Find(symbols[i], symbols[i + 1]);
  while (n > 1) {
    size_t best = 0;
    uint64_t best_rank = found[0] >> 32;
    for (size_t i = 1; i + 1 < n; ++i) {
      const uint64_t rank = found[i] >> 32;
      if (rank < best_rank) {
        best_rank = rank;
        best = i;
      }
    }
    if (found[best] == kNone) break;
    symbols[best] = static_cast<int32_t>(found[best] & 0xffffffffu);
    for (size_t i = best + 1; i + 1 < n; ++i) {
      symbols[i] = symbols[i + 1];
      found[i] = found[i + 1];
    }
    --n;
    if (best + 1 < n) found[best] = Find(symbols[best], symbols[best + 1]);
    if (best > 0) found[best - 1] = Find(symbols[best - 1], symbols[best]);
  }
  scratch->symbols.resize(n);
}

void BpeMerger::MergeLong(Scratch* scratch) const {
  const size_t n = scratch->symbols.size();
  CHECK_LT(n, size_t{0xffffffff}) << "a word of more than 4 GiB";
  scratch->found.assign(n, kNone);
  scratch->next.resize(n);
  scratch->previous.resize(n);
  scratch->heap.clear();
  int32_t* const symbols = scratch->symbols.data();
  uint64_t* const found = scratch->found.data();
  uint32_t* const next = scratch->next.data();
  uint32_t* const previous = scratch->previous.data();
  std::vector<uint64_t>& heap = scratch->heap;
  for (size_t i = 0; i < n; ++i) {
    next[i] = static_cast<uint32_t>(i + 1);
    previous[i] = static_cast<uint32_t>(i - 1);  // of the first: never read
    if (i + 1 < n) found[i] = Find(symbols[i], symbols[i + 1]);
    if (found[i] != kNone) heap.push_back((found[i] & ~uint64_t{0xffffffff}) | i);
  }
  std::make_heap(heap.begin(), heap.end(), std::greater<>());
  const auto refresh = [&](size_t i) {
    found[i] = next[i] < n ? Find(symbols[i], symbols[next[i]]) : kNone;
    if (found[i] == kNone) return;
    heap.push_back((found[i] & ~uint64_t{0xffffffff}) | i);
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  while (!heap.empty()) {
    const uint64_t top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    heap.pop_back();
    const size_t at = top & 0xffffffffu;
    // Stale unless the pair at this place still has this rank; a symbol merged away has kNone.
    if (found[at] == kNone || found[at] >> 32 != top >> 32) continue;
    const size_t gone = next[at];
    symbols[at] = static_cast<int32_t>(found[at] & 0xffffffffu);
    found[gone] = kNone;
    next[at] = next[gone];
    if (next[at] < n) previous[next[at]] = static_cast<uint32_t>(at);
    refresh(at);
    if (at > 0) refresh(previous[at]);
  }
  size_t kept = 0;
  for (size_t i = 0; i < n; i = next[i]) symbols[kept++] = symbols[i];
  scratch->symbols.resize(kept);
}

}  // namespace trireme
