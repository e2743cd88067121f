// AdamW over slices of flat buffers, out of place: the committed state is read, the next is
// written.
#pragma once

#include <span>

#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"
#include "parallelism/norm_range.h"

namespace trireme {

// Options of one step. t counts from 1.
struct AdamWStep {
  double lr;
  double beta1, beta2, eps;
  double weight_decay;
  int64_t t;
  double gradient_scale;  // clipping: min(1, clip_norm / (norm + 1e-6))
};

// One slice of a parameter: n elements. p, m, v: committed values; p_next, m_next, v_next: written,
// may alias the committed ones. p_compute: bf16 copy of p_next, or null.
struct AdamWSlice {
  const float* gradient;
  const float *p, *m, *v;
  float *p_next, *m_next, *v_next;
  BFloat16* p_compute;
  int64_t n;
  bool decay;
};

// p = p - lr wd p; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
// p = p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps). Element-wise: the bits do not depend
// on how slices are cut. Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
void AdamW(Stream& stream, std::span<const AdamWSlice> slices, const AdamWStep& step);

// One slice of a parameter that has no f32 masters. p, p_next: bf16; the rest as in AdamWSlice.
// first_element: where the slice begins in the parameters of the whole model laid end to end, so
// that an element's random bits do not depend on how slices are cut.
struct AdamWRoundedSlice {
  const float* gradient;
  const BFloat16* p;
  const float *m, *v;
  BFloat16* p_next;
  float *m_next, *v_next;
  int64_t n;
  int64_t first_element;
  bool decay;
};

// AdamW in f32, its result rounded to one of the two bf16 neighbours at random: up with the
// probability that makes the expectation exact. The bits come from (seed, step.t, element).
void AdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices, const AdamWStep& step,
                  uint64_t seed);

// Sums of squares in f64, each range's in a fixed order (of each device its own) that depends on
// its length alone. `ranges` and what they point at: memory of the stream's device.
void SumsOfSquares(Stream& stream, const NormRange* ranges, int64_t count);

}  // namespace trireme
