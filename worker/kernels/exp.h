// The exponential of every softmax and sigmoid here, for those who check it.
#pragma once

#include <cstdint>

namespace trireme {

// y[i] = e^x[i], within 1.1 units in the last place; the bits of an element do not depend on its
// place or on n. [n] both; y may be x.
void ExpOf(const float* x, float* y, int64_t n);
float ExpOf(float x);

}  // namespace trireme
