// Parameters: named global tensors, and how the model gets at them without knowing who holds what.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/device/tensor.h"
#include "parallelism/mesh.h"

namespace trireme {

using ParamId = int;
// Behind the rows (dim 0) of a matrix there is memory up to a multiple of so many rows: zeros
// behind weights, which may be read, and room behind accumulators, which may be written. Products
// on GPUs want such sizes; nothing else looks there.
inline constexpr int64_t kRowStep = 8;
inline int64_t PaddedRows(int64_t rows) { return (rows + kRowStep - 1) / kRowStep * kRowStep; }
// A microbatch of the global batch: 0 .. m-1 in every step.
using MicrobatchId = int;

// One parameter of a model as the whole world sees it.
struct ParameterSpec {
  std::string name;       // as in Hugging Face's files
  Shape shape;            // global; fused dims are viewed apart so that shards are boxes: [H, 3, H]
  Shape published_shape;  // as in the files: [H, 3 * H]
  Placement placement;    // over the tensor axis
  std::vector<int> stages;  // pipeline stages that hold it; two for tied embeddings, in role order
  int roles = 1;            // accumulators: a tied tensor has one a use (embedding 0, head 1)
  bool decay = true;        // weight decay: tensors with two or more published dims
  bool replicas_sum = false;  // ranks that share a piece hold partial gradients (shared KV heads)
  // Published initial values: normal with this standard deviation, or a constant when it is 0.
  double init_std = 0.02;
  double init_constant = 0.0;
};

// Where a parameter's gradient of one microbatch goes.
struct GradientSink {
  Tensor accumulator;  // f32, the local region; stays valid until GradientDone
  bool accumulate;     // add to what is there (beta = 1), else overwrite (beta = 0)
};

// What the model's blocks see. Nobody caches pointers across calls: later ZeRO levels gather behind
// Acquire. Called by one thread.
class ParameterStore {
 public:
  virtual ~ParameterStore() = default;
  // The local region of the parameter's values: matrices in the compute dtype, tensors of one
  // dimension in f32. Valid until Release.
  virtual Tensor Acquire(ParamId id) = 0;
  virtual void Release(ParamId id) = 0;
  // The accumulator for this microbatch's leaf. Microbatches come in ascending order a parameter
  // and role.
  virtual GradientSink Gradients(ParamId id, int role, MicrobatchId microbatch) = 0;
  // The model has written its last gradient of this parameter, role and microbatch.
  virtual void GradientDone(ParamId id, int role, MicrobatchId microbatch) = 0;
};

}  // namespace trireme
