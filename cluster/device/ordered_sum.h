// Sums of several buffers in an order that the caller states: what owners of a bit-exact reduction
// do with the contributions that they have received.
#pragma once

#include <array>
#include <span>

#include "cluster/device/stream.h"

namespace trireme {

// An expression over inputs 0, 1, ... as a stack machine reads it: each input is pushed, then the
// two topmost values are replaced by their sum `additions[input]` times. One value is left.
struct SumOrder {
  static constexpr int kMaxInputs = 256;
  static constexpr int kMaxDepth = 12;  // values on the stack at one time

  // CHECKs both limits, and that one value is left.
  explicit SumOrder(std::span<const uint8_t> additions_after);

  int inputs;
  std::array<uint8_t, kMaxInputs> additions;
};

// out[i] = the expression over inputs[..][i], each addition rounded to the element type (bf16 adds
// in f32 and rounds half to even).
//
// inputs, out: [count] f32, bf16, f64 or i64 each. `out` may be an input, but must not overlap one
// at another offset. Ordered on the stream. CHECKs the dtype.
void SumInOrder(Stream& stream, DType dtype, const SumOrder& order,
                std::span<const void* const> inputs, void* out, int64_t count);
// Runs each kernel behind it once and waits: a GPU loads kernels when they are first run, and may
// wait for all that run to do so. Nothing on a CPU.
void LoadSumKernels(Stream& stream);

}  // namespace trireme
