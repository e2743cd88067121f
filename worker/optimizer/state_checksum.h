// Checksums of training state that replicas compare: equal state has equal sums on every device,
// whatever the order, the cuts and the number of threads.
#pragma once

#include <span>

#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"

namespace trireme {

// Elements of state. first_element: where they stand in the whole, so that sums of the parts add up
// (modulo 2^64) to the sum of the whole.
struct ChecksumSlice {
  Tensor elements;
  int64_t first_element;
};

// The sum, modulo 2^64, of mixed (bits, position) of all elements. Another value of one element
// always gives another sum. Element types of 2, 4 or 8 bytes. Blocks the host until the sum is
// there.
uint64_t StateChecksum(Stream& stream, std::span<const ChecksumSlice> slices);

// What one element adds. For a given position a bijection of the bits.
constexpr uint64_t MixedElement(uint64_t bits, uint64_t position) {
  uint64_t x = bits + (position + 1) * 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93;
  return x ^ (x >> 32);
}

}  // namespace trireme
