// CopyChoice: by which of two ways messages go to a process of the same host: through the staging
// area, or read by the kernel from the sender's memory. Where both processes share a cache, the
// first takes half the time; where they do not, lines travel twice and it takes more. No topology
// tells which it is (virtual machines invent theirs), so both are timed, over and over.
#pragma once

#include <cstdint>

#include "cluster/base/clock.h"

namespace trireme {

class CopyChoice {
 public:
  enum Way { kStaged, kRead };
  // Smaller messages are over too soon to be timed.
  static constexpr int64_t kTimedBytes = 64 << 10;
  static constexpr int kTryEvery = 32;

  // The way of the next message: the one that has been the quicker of late, and for each
  // kTryEvery-th that can be timed the other one.
  Way Next(int64_t bytes);
  // What the processors of both ends spent on copying one.
  void Took(Way way, int64_t bytes, Micros micros);

 private:
  // Of the messages of one size, by powers of two.
  struct Costs {
    // Micros a byte, the least of late: what is more is mostly time in which another process ran.
    // Negative: not known.
    double of[2] = {-1, -1};
    int timed = 0;
  };
  static constexpr int kSizes = 8;
  static int SizeOf(int64_t bytes);

  Costs costs_[kSizes];
};

}  // namespace trireme
