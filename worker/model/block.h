// What the blocks of a model share: where they run, which tokens they see, and linear layers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cluster/device/buffer.h"
#include "cluster/device/stream.h"
#include "parallelism/parameters.h"
#include "parallelism/tensor_group.h"
#include "worker/kernels/matmul.h"

namespace trireme {

// The surroundings of a stage's blocks. Outlives them.
struct BlockContext {
  Stream* stream = nullptr;
  ParameterStore* parameters = nullptr;
  TensorGroup tensor;
  DType compute = DType::kF32;  // of matrices and of activations, the residual stream included
  // Where the stream's memory is, or where it would be when a run is only planned.
  DeviceKind device = DeviceKind::kCpu;
  Arena scratch;  // for what ends within a call
};

// B sequences of T tokens; N = B * T.
struct TokenShape {
  int64_t batch;
  int64_t length;
  int64_t tokens() const { return batch * length; }
};

// y = x W^T + b (weight [out, in]) or y = x W + b (weight [in, out], GPT-2's Conv1D). The weight
// may be this rank's columns or rows; sums over the tensor group are the caller's.
class Linear {
 public:
  enum class Layout { kOutIn, kInOut };

  Linear(BlockContext* context, ParamId weight, ParamId bias, Layout layout)
      : context_(context), weight_(weight), bias_(bias), layout_(layout) {}

  // y: [N, out], compute dtype or f32.
  void Forward(const Matrix& x, const Matrix& y) const;
  // This rank's addend of a row-parallel output: the first rank's carries the bias.
  void ForwardPartial(const Matrix& x, const Matrix& y) const;
  // pre: the output, y: GELU of it. Both [N, out], compute dtype.
  void ForwardGelu(const Matrix& x, const Tensor& pre, const Tensor& y) const;
  // dpre = (dy W) * gelu'(pre): through this layer and the GELU that made its input.
  void BackwardInputGelu(const Matrix& dy, const Tensor& pre, const Tensor& dpre) const;
  // dx (+)= dy W. dx: f32 when `accumulate`.
  void BackwardInput(const Matrix& dy, const Matrix& dx, bool accumulate) const;
  // Adds this microbatch's gradients of weight and bias to their accumulators.
  void BackwardWeight(const Matrix& dy, const Matrix& x, MicrobatchId microbatch) const;

  bool has_bias() const { return bias_ >= 0; }

 private:
  void Product(const Matrix& x, const Matrix& y, bool with_bias) const;
  // Calls body(weight, how it is turned in a forward product, bias or an undefined tensor).
  template <typename Body>
  void WithParameters(bool with_bias, const Body& body) const;

  BlockContext* context_;
  ParamId weight_;
  ParamId bias_;  // -1: none
  Layout layout_;
};

// Weight gradients that a backward pass puts off (zero-bubble schedules), or runs at once.
class WeightWork {
 public:
  explicit WeightWork(bool defer) : defer_(defer) {}

  bool deferred() const { return defer_; }
  void Add(const Linear& linear, const Matrix& dy, const Matrix& x, MicrobatchId microbatch);
  // Runs what was put off, in the order it came.
  void Run(MicrobatchId microbatch);

 private:
  struct Item {
    const Linear* linear;
    Matrix dy;
    Matrix x;
  };
  bool defer_;
  std::vector<Item> items_;
};

// Index of the parameter with this name; -1 when the model has none.
ParamId FindParameter(const std::vector<ParameterSpec>& specs, const std::string& name);

}  // namespace trireme
