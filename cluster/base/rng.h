// Counter-based random numbers: a value depends on its key and counter alone, so that masks and
// initial weights are the same whatever the layout, the threads or the history of the run.
// Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
#pragma once

#include <array>
#include <cstdint>

namespace trireme {

// Ten rounds of Philox over a 128-bit counter with a 64-bit key.
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// What a stream of random numbers is for; part of the counter, so that no two uses share values.
enum class RngUse : uint32_t { kInit = 1, kDropout = 2, kShuffle = 3, kSampling = 4, kTest = 5 };

// A stream of values addressed by element index. Cheap to copy; holds no state that advances.
class CounterRng {
 public:
  // `stream` tells uses of the same kind apart: a tensor's id, a sample id, a layer.
  CounterRng(uint64_t seed, RngUse use, uint64_t stream);

  uint32_t Bits32(uint64_t element) const;
  uint64_t Bits64(uint64_t element) const;
  // [0, 1) with 24 bits (Uniform) or 53 bits (UniformDouble).
  float Uniform(uint64_t element) const;
  double UniformDouble(uint64_t element) const;
  // Standard normal by Box and Muller from one Philox block an element, computed in double.
  float Normal(uint64_t element) const;
  // Uniform in [0, bound); unbiased to 2^-64. bound > 0.
  uint64_t Below(uint64_t bound, uint64_t element) const;

 private:
  std::array<uint32_t, 4> Block(uint64_t element) const;

  std::array<uint32_t, 2> key_;
  uint32_t stream_low_;
  uint32_t stream_high_and_use_;
};

}  // namespace trireme
