// What the norm of a rank's gradients is made of.
#pragma once

#include <cstdint>

namespace trireme {

// `elements` values at x whose squares are summed in f64 to *sum. All memory is the device's.
struct NormRange {
  const float* x;
  int64_t elements;
  double* sum;
};

}  // namespace trireme
