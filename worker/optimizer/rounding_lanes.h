// Stochastic rounding on a CPU: the bits of stochastic_rounding.h, sixteen lanes at a time.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>

#include "cluster/base/rng.h"
#include "worker/kernels/vector.h"
#include "worker/optimizer/stochastic_rounding.h"

namespace trireme {

inline WordProduct<VecBits> MultiplyLanes(uint32_t factor, VecBits x) {
#if defined(__AVX512F__)
  const auto lanes = reinterpret_cast<__m512i>(x);
  const __m512i by = _mm512_set1_epi32(static_cast<int>(factor));
  const __m512i even = _mm512_maskz_mul_epu32(0xff, lanes, by);
  const __m512i odd = _mm512_maskz_mul_epu32(0xff, _mm512_maskz_srli_epi64(0xff, lanes, 32), by);
  const __m512i even_high = _mm512_maskz_srli_epi64(0xff, even, 32);
  return {reinterpret_cast<VecBits>(_mm512_mask_blend_epi32(0xaaaa, even_high, odd)), x * factor};
#else
  using Wide = uint64_t __attribute__((vector_size(128)));
  const Wide product = __builtin_convertvector(x, Wide) * factor;
  return {__builtin_convertvector(product >> 32, VecBits), x * factor};
#endif
}

// So many blocks of random bits are made side by side, for so many consecutive elements.
inline constexpr int64_t kRoundingElements = kLanes * kElementsOfBlock;
// Sixteen bits an element; room behind them for loads of all lanes.
using RandomHalves = std::array<uint16_t, kRoundingElements + kLanes>;

// RoundingBits of the blocks from `first_block` on.
inline void FillRandomHalves(uint64_t seed, int64_t t, int64_t first_block, RandomHalves* halves) {
  VecBits low, high;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const auto block = static_cast<uint64_t>(first_block + lane);
    low[lane] = static_cast<uint32_t>(block);
    high[lane] = static_cast<uint32_t>(block >> 32);
  }
  const CounterRng rng(seed, RngUse::kRounding, static_cast<uint64_t>(t));
  const std::array<VecBits, 4> words = rng.Blocks(low, high, MultiplyLanes);
  // The four words of a block are the sixteen bits of its elements, in order.
  std::array<uint32_t, 4 * kLanes> blocks;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    for (int64_t word = 0; word < 4; ++word) blocks[4 * lane + word] = words[word][lane];
  }
  std::memcpy(halves->data(), blocks.data(), sizeof(blocks));
}

// RoundStochastically of every lane.
inline VecHalfBits RoundLanes(Vec x, const uint16_t* random) {
  VecHalfBits bits;
  std::memcpy(&bits, random, sizeof(bits));
  const VecBits u = reinterpret_cast<VecBits>(x);
  const VecBits rounded = u + __builtin_convertvector(bits, VecBits);
  const VecBits kept = (u & 0x7fffffff) > 0x7f800000 ? u | 0x400000 : rounded;
  return __builtin_convertvector(kept >> 16, VecHalfBits);
}

}  // namespace trireme
