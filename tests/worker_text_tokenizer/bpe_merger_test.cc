#include "worker/text/bpe_merger.h"

#include <gtest/gtest.h>

#include <map>

#include "cluster/base/rng.h"

namespace trireme {
namespace {

// The definition: scan for the lowest rank, leftmost first, merge, start over.
std::vector<int32_t> MergeByDefinition(const std::vector<BpeMerge>& merges,
                                       std::vector<int32_t> symbols) {
  std::map<std::pair<int32_t, int32_t>, BpeMerge> by_pair;
  for (const BpeMerge& merge : merges) by_pair[{merge.left, merge.right}] = merge;
  for (;;) {
    const BpeMerge* best = nullptr;
    size_t best_at = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto found = by_pair.find({symbols[i], symbols[i + 1]});
      if (found == by_pair.end()) continue;
      if (best != nullptr && found->second.rank >= best->rank) continue;
      best = &found->second;
      best_at = i;
    }
    if (best == nullptr) return symbols;
    symbols[best_at] = best->result;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(best_at) + 1);
  }
}

TEST(BpeMergerTest, ShortAndLongWordsMergeByTheDefinition) {
  const CounterRng rng(7, RngUse::kTest, 0);
  uint64_t element = 0;
  for (int round = 0; round < 60; ++round) {
    // Symbols 0 to 3; each merge makes a new one of two older ones. Some ranks stand twice.
    std::vector<BpeMerge> merges;
    for (int32_t made = 4; made < 40; ++made) {
      const auto left = static_cast<int32_t>(rng.Below(made, element++));
      const auto right = static_cast<int32_t>(rng.Below(made, element++));
      merges.push_back({left, right, made, static_cast<uint32_t>(rng.Below(20, element++))});
    }
    std::map<std::pair<int32_t, int32_t>, bool> seen;
    std::erase_if(merges, [&](const BpeMerge& m) {
      return !seen.emplace(std::pair(m.left, m.right), true).second;
    });
    const BpeMerger merger(merges);
    BpeMerger::Scratch scratch;
    for (const size_t size : {0, 1, 2, 3, 10, 39, 40, 41, 42, 100, 300}) {
      std::vector<int32_t> symbols(size);
      for (int32_t& symbol : symbols) symbol = static_cast<int32_t>(rng.Below(4, element++));
      scratch.symbols = symbols;
      merger.Merge(&scratch);
      ASSERT_EQ(scratch.symbols, MergeByDefinition(merges, symbols)) << "of " << size;
    }
  }
}

TEST(BpeMergerTest, WithoutMergesNothingChanges) {
  BpeMerger::Scratch scratch;
  scratch.symbols = {1, 2, 3};
  BpeMerger().Merge(&scratch);
  EXPECT_EQ(scratch.symbols, (std::vector<int32_t>{1, 2, 3}));
}

}  // namespace
}  // namespace trireme
