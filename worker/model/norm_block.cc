#include "worker/model/norm_block.h"

#include "worker/kernels/norm.h"

namespace trireme {

NormStatistics NormBlock::AllocateStatistics(Arena& arena, int64_t tokens) const {
  NormStatistics statistics;
  if (kind_ == NormKind::kLayer) statistics.mean = arena.Allocate(DType::kF32, {tokens});
  statistics.inv_std = arena.Allocate(DType::kF32, {tokens});
  return statistics;
}

void NormBlock::Forward(const Tensor& x, const Tensor& residual, const Tensor& x_out,
                        const Tensor& y, const NormStatistics& statistics) const {
  ParameterStore& parameters = *context_->parameters;
  const Tensor weight = parameters.Acquire(weight_);
  if (kind_ == NormKind::kRms) {
    RmsNormForward(*context_->stream, x, residual, weight, eps_, x_out, y, statistics.inv_std);
  } else {
    const Tensor bias = parameters.Acquire(bias_);
    LayerNormForward(*context_->stream, x, residual, weight, bias, eps_, x_out, y, statistics.mean,
                     statistics.inv_std);
    parameters.Release(bias_);
  }
  parameters.Release(weight_);
}

void NormBlock::Backward(const Tensor& dy, const Tensor& x, const NormStatistics& statistics,
                         const Tensor& dx_residual, const Tensor& dx,
                         MicrobatchId microbatch) const {
  ParameterStore& parameters = *context_->parameters;
  const Tensor weight = parameters.Acquire(weight_);
  const GradientSink dweight = parameters.Gradients(weight_, 0, microbatch);
  if (kind_ == NormKind::kRms) {
    RmsNormBackward(*context_->stream, dy, x, weight, statistics.inv_std, dx_residual, dx,
                    dweight.accumulator, dweight.accumulate);
  } else {
    const GradientSink dbias = parameters.Gradients(bias_, 0, microbatch);
    CHECK_EQ(dbias.accumulate, dweight.accumulate);
    LayerNormBackward(*context_->stream, dy, x, weight, statistics.mean, statistics.inv_std,
                      dx_residual, dx, dweight.accumulator, dbias.accumulator, dweight.accumulate);
    parameters.GradientDone(bias_, 0, microbatch);
  }
  parameters.GradientDone(weight_, 0, microbatch);
  parameters.Release(weight_);
}

}  // namespace trireme
