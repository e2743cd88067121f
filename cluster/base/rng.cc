#include "cluster/base/rng.h"

#include <cmath>
#include <numbers>

namespace trireme {

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  constexpr uint64_t kMultiply0 = 0xD2511F53, kMultiply1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiply0 * c[0];
    const uint64_t product1 = kMultiply1 * c[2];
    c = {static_cast<uint32_t>(product1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(product1),
         static_cast<uint32_t>(product0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(product0)};
    k = {k[0] + kWeyl0, k[1] + kWeyl1};
  }
  return c;
}

CounterRng::CounterRng(uint64_t seed, RngUse use, uint64_t stream)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      stream_low_(static_cast<uint32_t>(stream)),
      stream_high_and_use_(static_cast<uint32_t>(stream >> 32) ^
                           (static_cast<uint32_t>(use) << 24)) {}

std::array<uint32_t, 4> CounterRng::Block(uint64_t element) const {
  return Philox4x32({static_cast<uint32_t>(element), static_cast<uint32_t>(element >> 32),
                     stream_low_, stream_high_and_use_},
                    key_);
}

uint32_t CounterRng::Bits32(uint64_t element) const { return Block(element)[0]; }

uint64_t CounterRng::Bits64(uint64_t element) const {
  const auto block = Block(element);
  return (static_cast<uint64_t>(block[1]) << 32) | block[0];
}

float CounterRng::Uniform(uint64_t element) const {
  return static_cast<float>(Bits32(element) >> 8) * 0x1p-24f;
}

double CounterRng::UniformDouble(uint64_t element) const {
  return static_cast<double>(Bits64(element) >> 11) * 0x1p-53;
}

float CounterRng::Normal(uint64_t element) const {
  const auto block = Block(element);
  const double u1 = (static_cast<double>(block[0]) + 1.0) * 0x1p-32;  // (0, 1]: log is finite
  const double u2 = static_cast<double>(block[1]) * 0x1p-32;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u1)) * std::cos(2.0 * std::numbers::pi * u2));
}

uint64_t CounterRng::Below(uint64_t bound, uint64_t element) const {
  const auto wide = static_cast<unsigned __int128>(Bits64(element)) * bound;
  return static_cast<uint64_t>(wide >> 64);
}

}  // namespace trireme
