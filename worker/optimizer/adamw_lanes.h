// AdamW of sixteen elements on a CPU: what every form of the update computes.
#pragma once

#include <cmath>

#include "worker/kernels/vector.h"
#include "worker/optimizer/adamw_factors.h"

namespace trireme {

struct AdamWLanes {
  Vec p, m, v;
};

inline Vec SquareRoot(Vec x) {
#if defined(__AVX512F__)
  return reinterpret_cast<Vec>(_mm512_maskz_sqrt_ps(0xffff, reinterpret_cast<__m512>(x)));
#else
  Vec root;
  for (int i = 0; i < kLanes; ++i) root[i] = std::sqrt(x[i]);
  return root;
#endif
}

// keep: f.keep, or 1 where weights do not decay.
inline AdamWLanes UpdateLanes(const AdamWFactors& f, float keep, Vec gradient,
                              const AdamWLanes& from) {
  const Vec g = gradient * f.gradient;
  AdamWLanes to;
  to.m = Fma(from.m, Broadcast(f.m_keep), g * f.m_new);
  to.v = Fma(from.v, Broadcast(f.v_keep), g * g * f.v_new);
  const Vec root = Fma(SquareRoot(to.v), Broadcast(f.root_inverse), Broadcast(f.eps));
  to.p = Fma(to.m / root, Broadcast(-f.rate), from.p * keep);
  return to;
}

}  // namespace trireme
