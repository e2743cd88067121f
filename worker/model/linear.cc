#include <glog/logging.h>

#include "worker/kernels/activation.h"
#include "worker/model/block.h"

namespace trireme {

void Linear::Forward(const Matrix& x, const Matrix& y) const { Product(x, y, has_bias()); }

void Linear::ForwardPartial(const Matrix& x, const Matrix& y) const {
  Product(x, y, has_bias() && context_->tensor.rank() == 0);
}

template <typename Body>
void Linear::WithParameters(bool with_bias, const Body& body) const {
  ParameterStore& parameters = *context_->parameters;
  const Matrix w = Matrix::OfRows(parameters.Acquire(weight_));
  Tensor bias;
  if (with_bias) {
    bias = parameters.Acquire(bias_);
    bias = bias.View({bias.elements()});
  }
  body(w, layout_ == Layout::kOutIn ? Transpose::kYes : Transpose::kNo, bias);
  if (with_bias) parameters.Release(bias_);
  parameters.Release(weight_);
}

void Linear::Product(const Matrix& x, const Matrix& y, bool with_bias) const {
  WithParameters(with_bias, [&](const Matrix& w, Transpose turn, const Tensor& bias) {
    MatMul(*context_->stream, x, Transpose::kNo, w, turn, y, false, bias);
  });
}

void Linear::ForwardGelu(const Matrix& x, const Tensor& pre, const Tensor& y) const {
  WithParameters(has_bias(), [&](const Matrix& w, Transpose turn, const Tensor& bias) {
    MatMulGelu(*context_->stream, x, w, turn, bias, pre, y);
  });
}

void Linear::BackwardInputGelu(const Matrix& dy, const Tensor& pre, const Tensor& dpre) const {
  const Matrix w = Matrix::OfRows(context_->parameters->Acquire(weight_));
  MatMulGeluBackward(*context_->stream, dy, w,
                     layout_ == Layout::kOutIn ? Transpose::kNo : Transpose::kYes, pre, dpre);
  context_->parameters->Release(weight_);
}

void Linear::BackwardInput(const Matrix& dy, const Matrix& dx, bool accumulate) const {
  const Matrix w = Matrix::OfRows(context_->parameters->Acquire(weight_));
  MatMul(*context_->stream, dy, Transpose::kNo, w,
         layout_ == Layout::kOutIn ? Transpose::kNo : Transpose::kYes, dx, accumulate);
  context_->parameters->Release(weight_);
}

void Linear::BackwardWeight(const Matrix& dy, const Matrix& x, MicrobatchId microbatch) const {
  ParameterStore& parameters = *context_->parameters;
  const GradientSink sink = parameters.Gradients(weight_, 0, microbatch);
  const Matrix dw = Matrix::OfRows(sink.accumulator);
  if (layout_ == Layout::kOutIn) {
    MatMul(*context_->stream, dy, Transpose::kYes, x, Transpose::kNo, dw, sink.accumulate);
  } else {
    MatMul(*context_->stream, x, Transpose::kYes, dy, Transpose::kNo, dw, sink.accumulate);
  }
  parameters.GradientDone(weight_, 0, microbatch);
  if (!has_bias()) return;
  const GradientSink bias = parameters.Gradients(bias_, 0, microbatch);
  CHECK_EQ(dy.row_stride, dy.columns) << "bias gradients need dense rows";
  BiasBackward(*context_->stream, Tensor(dy.data, dy.dtype, {dy.rows, dy.columns}),
               bias.accumulator.View({bias.accumulator.elements()}), bias.accumulate);
  parameters.GradientDone(bias_, 0, microbatch);
}

void WeightWork::Add(const Linear& linear, const Matrix& dy, const Matrix& x,
                     MicrobatchId microbatch) {
  if (defer_) {
    items_.push_back({&linear, dy, x});
  } else {
    linear.BackwardWeight(dy, x, microbatch);
  }
}

void WeightWork::Run(MicrobatchId microbatch) {
  for (const Item& item : items_) item.linear->BackwardWeight(item.dy, item.x, microbatch);
  items_.clear();
}

ParamId FindParameter(const std::vector<ParameterSpec>& specs, const std::string& name) {
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == name) return static_cast<ParamId>(i);
  }
  return -1;
}

}  // namespace trireme
