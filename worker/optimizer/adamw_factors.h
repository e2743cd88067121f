// The numbers of one AdamW step as every device uses them.
#pragma once

#include <cmath>

#include "worker/optimizer/adamw.h"

namespace trireme {

// Rounded once from double.
struct AdamWFactors {
  float gradient, m_keep, m_new, v_keep, v_new, keep;
  // p -= lr / c1 * m / (sqrt(v) / sqrt(c2) + eps), with c = 1 - beta^t
  float rate, root_inverse, eps;
};

inline AdamWFactors AdamWFactorsOf(const AdamWStep& step) {
  CHECK_GE(step.t, 1);
  const double c1 = 1 - std::pow(step.beta1, static_cast<double>(step.t));
  const double c2 = 1 - std::pow(step.beta2, static_cast<double>(step.t));
  AdamWFactors f;
  f.gradient = static_cast<float>(step.gradient_scale);
  f.m_keep = static_cast<float>(step.beta1);
  f.m_new = static_cast<float>(1 - step.beta1);
  f.v_keep = static_cast<float>(step.beta2);
  f.v_new = static_cast<float>(1 - step.beta2);
  f.keep = static_cast<float>(1 - step.lr * step.weight_decay);
  f.rate = static_cast<float>(step.lr / c1);
  f.root_inverse = static_cast<float>(1 / std::sqrt(c2));
  f.eps = static_cast<float>(step.eps);
  return f;
}

}  // namespace trireme
