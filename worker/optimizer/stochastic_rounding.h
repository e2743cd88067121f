// Stochastic rounding of f32 to bf16, constexpr: the same bits on every device.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "cluster/base/rng.h"
#include "cluster/device/dtype.h"

namespace trireme {

// One Philox block has sixteen random bits for each of this many consecutive elements.
inline constexpr int64_t kElementsOfBlock = 8;

// The random bits of elements 8 block .. 8 block + 7 at step t.
constexpr std::array<uint32_t, 4> RoundingBits(uint64_t seed, int64_t t, int64_t block) {
  return CounterRng(seed, RngUse::kRounding, static_cast<uint64_t>(t))
      .Block(static_cast<uint64_t>(block));
}
// Those of one element of the block, 0 .. 7.
constexpr uint32_t RoundingBitsOf(const std::array<uint32_t, 4>& bits, int64_t element) {
  uint32_t word = 0;  // chosen without an address: registers of a GPU have none
  for (int64_t i = 0; i < 4; ++i) word = i == element / 2 ? bits[i] : word;
  return (word >> (element % 2 * 16)) & 0xffff;
}

// Rounds away from zero with probability (dropped bits) / 2^16: random is uniform in [0, 2^16). A
// value that is bf16 already stays; infinities stay, NaN stays NaN (quiet).
constexpr BFloat16 RoundStochastically(float x, uint32_t random) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  const uint32_t magnitude = u & 0x7fffffff;
  if (magnitude > 0x7f800000) return {static_cast<uint16_t>((u >> 16) | 0x40)};
  return {static_cast<uint16_t>((u + random) >> 16)};
}

}  // namespace trireme
