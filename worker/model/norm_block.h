// A normalisation with its parameters: RMS norm or layer norm, fused with the residual add before
// it.
#pragma once

#include "worker/model/block.h"

namespace trireme {

enum class NormKind { kRms, kLayer };

// What the backward pass of a norm needs besides its input.
struct NormStatistics {
  Tensor mean;     // [N] f32, layer norm alone
  Tensor inv_std;  // [N] f32
};

class NormBlock {
 public:
  NormBlock(BlockContext* context, NormKind kind, double eps, ParamId weight, ParamId bias)
      : context_(context),
        kind_(kind),
        eps_(static_cast<float>(eps)),
        weight_(weight),
        bias_(bias) {}

  NormStatistics AllocateStatistics(Arena& arena, int64_t tokens) const;

  // y = norm(x), or with a residual: x_out = x + residual, y = norm(x_out). [N, H].
  void Forward(const Tensor& x, const Tensor& residual, const Tensor& x_out, const Tensor& y,
               const NormStatistics& statistics) const;
  // dx = gradient through the norm + dx_residual (may be undefined); dx may alias dx_residual.
  void Backward(const Tensor& dy, const Tensor& x, const NormStatistics& statistics,
                const Tensor& dx_residual, const Tensor& dx, MicrobatchId microbatch) const;

 private:
  BlockContext* context_;
  NormKind kind_;
  float eps_;
  ParamId weight_;
  ParamId bias_;  // layer norm alone
};

}  // namespace trireme
