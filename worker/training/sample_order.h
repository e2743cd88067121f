// SampleOrder: which window of which token file is the sample at (step, position). Depends on the
// seed and the data alone, never on the layout; holds no state that advances.
#pragma once

#include <cstdint>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

// A pseudo-random permutation of [0, n): a four-round Feistel network over Philox, walked until the
// value falls below n. Black and Rogaway 2002, "Ciphers with arbitrary finite domains".
class Permutation {
 public:
  Permutation(uint64_t n, uint64_t seed, uint64_t stream);
  uint64_t At(uint64_t i) const;

 private:
  uint64_t Round(uint64_t value) const;
  uint64_t n_, seed_, stream_;
  int half_bits_;
};

struct SamplePlace {
  int source;
  int64_t window;
};

class SampleOrder {
 public:
  struct Options {
    std::vector<int64_t> windows;  // of each source, > 0
    std::vector<double> weights;   // of each source, > 0
    int64_t sequences;             // samples a step
    bool shuffle;
    uint64_t seed;
  };
  explicit SampleOrder(Options options);

  // step counts from 1, 0 <= position < sequences. One source without shuffle: window
  // ((step - 1) * sequences + position) modulo the windows. With shuffle every epoch over a source
  // is a permutation of its own. Several sources take turns within blocks of kBlock samples, each
  // as often as its weight says.
  SamplePlace At(int64_t step, int64_t position) const;
  // Samples of a block that are of this source: its share of the weights, rounded.
  int64_t SamplesOfBlock(int source) const { return block_count_[source]; }

  static constexpr int64_t kBlock = 1000;

 private:
  Options options_;
  std::vector<int> block_;            // source of each place of an unshuffled block
  std::vector<int64_t> block_count_;  // samples a block takes of each source
};

}  // namespace trireme
