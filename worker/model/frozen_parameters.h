// FrozenParameters: weights of a model that is only run, never trained.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/device/buffer.h"
#include "cluster/device/stream.h"
#include "parallelism/parameters.h"

namespace trireme {

// Reads the elements of `region` of the parameter, row-major, as f32.
using ParameterReader =
    std::function<Status(const ParameterSpec& spec, const Box& region, float* out)>;

class FrozenParameters final : public ParameterStore {
 public:
  // Loads this rank's region of every parameter its stage holds; matrices are rounded to `compute`.
  // On the stream's device.
  static Result<std::unique_ptr<FrozenParameters>> Load(const std::vector<ParameterSpec>& specs,
                                                        const Mesh& mesh, int rank, DType compute,
                                                        Stream& stream,
                                                        const ParameterReader& reader);

  Tensor Acquire(ParamId id) override { return tensors_[id]; }
  void Release(ParamId) override {}
  // CHECK-fail: there is nothing to train.
  GradientSink Gradients(ParamId id, int role, MicrobatchId microbatch) override;
  void GradientDone(ParamId id, int role, MicrobatchId microbatch) override;

 private:
  std::vector<Buffer> memory_;
  std::vector<Tensor> tensors_;  // by id; undefined where another stage holds it
};

}  // namespace trireme
