// Counter-based random numbers: a value depends on its key and counter alone, so that masks and
// initial weights are the same whatever the layout, the threads or the history of the run.
// Philox4x32-10: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
#pragma once

#include <array>
#include <cstdint>

namespace trireme {

// The halves of a product of two words.
template <typename Word>
struct WordProduct {
  Word high, low;
};

// Ten rounds of Philox over a 128-bit counter with a 64-bit key. Word: uint32_t, or lanes of them;
// multiply(factor, word) gives their WordProduct. constexpr, as all that yields bits below: kernels
// of a GPU call it too.
template <typename Word, typename Multiply>
constexpr std::array<Word, 4> PhiloxRounds(std::array<Word, 4> c, std::array<uint32_t, 2> k,
                                           const Multiply& multiply) {
  constexpr uint32_t kMultiply0 = 0xD2511F53, kMultiply1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const WordProduct<Word> product0 = multiply(kMultiply0, c[0]);
    const WordProduct<Word> product1 = multiply(kMultiply1, c[2]);
    c = {product1.high ^ c[1] ^ k[0], product1.low, product0.high ^ c[3] ^ k[1], product0.low};
    k = {k[0] + kWeyl0, k[1] + kWeyl1};
  }
  return c;
}

constexpr std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  return PhiloxRounds(c, k, [](uint32_t factor, uint32_t word) {
    const uint64_t product = uint64_t{factor} * word;
    return WordProduct<uint32_t>{static_cast<uint32_t>(product >> 32),
                                 static_cast<uint32_t>(product)};
  });
}

// What a stream of random numbers is for; part of the counter, so that no two uses share values.
enum class RngUse : uint32_t {
  kInit = 1,
  kDropout = 2,
  kShuffle = 3,
  kSampling = 4,
  kTest = 5,
  kRounding = 6,
};

// A stream of values addressed by element index. Cheap to copy; holds no state that advances.
class CounterRng {
 public:
  // `stream` tells uses of the same kind apart: a tensor's id, a sample id, a layer.
  constexpr CounterRng(uint64_t seed, RngUse use, uint64_t stream)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        stream_low_(static_cast<uint32_t>(stream)),
        stream_high_and_use_(static_cast<uint32_t>(stream >> 32) ^
                             (static_cast<uint32_t>(use) << 24)) {}

  // All 128 bits of an element; the values below are made of the first ones.
  constexpr std::array<uint32_t, 4> Block(uint64_t element) const {
    return Philox4x32({static_cast<uint32_t>(element), static_cast<uint32_t>(element >> 32),
                       stream_low_, stream_high_and_use_},
                      key_);
  }
  // The same of several elements at once, whose halves stand in the lanes of `low` and `high`.
  template <typename Word, typename Multiply>
  std::array<Word, 4> Blocks(Word low, Word high, const Multiply& multiply) const {
    return PhiloxRounds<Word>({low, high, Word{} + stream_low_, Word{} + stream_high_and_use_},
                              key_, multiply);
  }
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
  std::array<uint32_t, 2> key_;
  uint32_t stream_low_;
  uint32_t stream_high_and_use_;
};

}  // namespace trireme
