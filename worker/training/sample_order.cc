#include "worker/training/sample_order.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <utility>

#include "cluster/base/rng.h"

namespace trireme {

Permutation::Permutation(uint64_t n, uint64_t seed, uint64_t stream)
    : n_(n), seed_(seed), stream_(stream) {
  CHECK_GT(n, 0u);
  half_bits_ = std::max(1, static_cast<int>(std::bit_width(n - 1) + 1) / 2);
}

uint64_t Permutation::Round(uint64_t value) const {
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t left = value >> half_bits_, right = value & mask;
  for (uint64_t round = 0; round < 4; ++round) {
    const CounterRng rng(seed_, RngUse::kShuffle, stream_ * 4 + round);
    left = std::exchange(right, left ^ (rng.Bits64(right) & mask));
  }
  return (left << half_bits_) | right;
}

uint64_t Permutation::At(uint64_t i) const {
  CHECK_LT(i, n_);
  do {
    i = Round(i);
  } while (i >= n_);
  return i;
}

SampleOrder::SampleOrder(Options options) : options_(std::move(options)) {
  const size_t sources = options_.windows.size();
  CHECK_EQ(options_.weights.size(), sources);
  const double total = std::accumulate(options_.weights.begin(), options_.weights.end(), 0.0);
  // Largest remainders: the counts are whole and add up to kBlock.
  std::vector<std::pair<double, size_t>> remainders;
  int64_t dealt = 0;
  for (size_t s = 0; s < sources; ++s) {
    const double exact = static_cast<double>(kBlock) * options_.weights[s] / total;
    block_count_.push_back(static_cast<int64_t>(exact));
    dealt += block_count_.back();
    remainders.push_back({block_count_.back() - exact, s});
  }
  std::sort(remainders.begin(), remainders.end());
  for (size_t i = 0; dealt < kBlock; ++i, ++dealt) ++block_count_[remainders[i % sources].second];
  for (size_t s = 0; s < sources; ++s) block_.insert(block_.end(), block_count_[s], s);
}

SamplePlace SampleOrder::At(int64_t step, int64_t position) const {
  const int64_t sample = (step - 1) * options_.sequences + position;
  int source = 0;
  int64_t index = sample;  // how many samples of this source came before
  if (options_.windows.size() > 1) {
    const int64_t block = sample / kBlock, place = sample % kBlock;
    const Permutation turns(kBlock, options_.seed, (uint64_t{1} << 40) + block);
    source = block_[turns.At(place)];
    index = block * block_count_[source];
    for (int64_t p = 0; p < place; ++p) index += block_[turns.At(p)] == source;
  }
  const int64_t windows = options_.windows[source];
  int64_t window = index % windows;
  if (options_.shuffle) {
    const uint64_t epoch = static_cast<uint64_t>(index / windows);
    window = static_cast<int64_t>(
        Permutation(windows, options_.seed, (static_cast<uint64_t>(source) << 32) + epoch)
            .At(window));
  }
  return {source, window};
}

}  // namespace trireme
