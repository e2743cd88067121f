// RMS norm and layer norm, alone and fused with the residual add before them. N rows of D elements.
// Sums over D run in a fixed order that does not depend on threads or on N.
#pragma once

#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"

namespace trireme {

// y[n, :] = x[n, :] / sqrt(mean(x[n, :]^2) + eps) * weight. When `residual` is defined, first
// x_out = x + residual (rounded to x_out's dtype), and the norm is of x_out; x_out may alias x or
// residual. Else x_out is ignored.
//
// x, residual, x_out, y: [N, D], each f32 or bf16. weight: [D] f32. inv_rms: [N] f32, saved for the
// backward pass. Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
void RmsNormForward(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& weight,
                    float eps, const Tensor& x_out, const Tensor& y, const Tensor& inv_rms);
// dx = gradient of the norm's input, plus dx_residual where defined (the gradient that reaches x
// past the norm); dx may alias dx_residual or dy. x: the norm's input (x_out of the forward).
// dweight: [D] f32, sums over rows in fixed blocks; overwritten unless `accumulate`.
void RmsNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight,
                     const Tensor& inv_rms, const Tensor& dx_residual, const Tensor& dx,
                     const Tensor& dweight, bool accumulate);

// y = (x - mean) / sqrt(var + eps) * weight + bias, var divided by D; the rest as above.
// mean, inv_std: [N] f32. Ba et al. 2016, arXiv:1607.06450.
void LayerNormForward(Stream& stream, const Tensor& x, const Tensor& residual, const Tensor& weight,
                      const Tensor& bias, float eps, const Tensor& x_out, const Tensor& y,
                      const Tensor& mean, const Tensor& inv_std);
void LayerNormBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& weight,
                       const Tensor& mean, const Tensor& inv_std, const Tensor& dx_residual,
                       const Tensor& dx, const Tensor& dweight, const Tensor& dbias,
                       bool accumulate);

}  // namespace trireme
