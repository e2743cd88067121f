// Element-wise activations between the two products of a feed-forward block.
#pragma once

#include "cluster/device/stream.h"
#include "cluster/device/tensor.h"

namespace trireme {

// y = silu(gate) * up. All [N, F], f32 or bf16. Shazeer 2020, arXiv:2002.05202.
void SwiGluForward(Stream& stream, const Tensor& gate, const Tensor& up, const Tensor& y);
// dgate may alias gate, dup may alias up or dy.
void SwiGluBackward(Stream& stream, const Tensor& dy, const Tensor& gate, const Tensor& up,
                    const Tensor& dgate, const Tensor& dup);

// The tanh form ("gelu_new"). Hendrycks and Gimpel 2016, arXiv:1606.08415.
void GeluForward(Stream& stream, const Tensor& x, const Tensor& y);
// dx may alias x or dy.
void GeluBackward(Stream& stream, const Tensor& dy, const Tensor& x, const Tensor& dx);

// y = a + b, rounded to y's dtype; y may alias a or b.
void Add(Stream& stream, const Tensor& a, const Tensor& b, const Tensor& y);
// dbias[F] = sum over rows of dy[N, F] in fixed blocks; f32; added unless !accumulate.
void BiasBackward(Stream& stream, const Tensor& dy, const Tensor& dbias, bool accumulate);

}  // namespace trireme
