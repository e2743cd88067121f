#include "cluster/base/rng.h"

#include <cmath>
#include <numbers>

namespace trireme {

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
