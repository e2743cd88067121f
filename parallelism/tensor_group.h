// TensorGroup: what tensor parallelism sends. Column linears need the sum of input gradients, row
// linears the sum of outputs; vocabulary-parallel blocks exchange a few numbers a token.
// Shoeybi et al. 2019, arXiv:1909.08053, section 3.
#pragma once

#include "cluster/comm/communicator.h"
#include "cluster/device/graph.h"
#include "cluster/device/tensor.h"

namespace trireme {

// The ranks that share each tensor of a stage. With one rank every call is free. After the first
// failure every call returns at once and `status` says what happened: the values are worthless.
class TensorGroup {
 public:
  TensorGroup() = default;
  // Does not own `communicator`, which outlives the object.
  TensorGroup(Communicator* communicator, Micros timeout);
  ~TensorGroup() { Abandon(); }
  TensorGroup(TensorGroup&&) = default;
  TensorGroup& operator=(TensorGroup&&) = default;

  // Until it is called with null, calls belong to a recording of `stream`, which follows them when
  // it is replayed: then the object must be where it is now. Replay tells of failures; Abandon
  // follows them.
  void RecordTo(Recording* recording, Stream* stream) {
    recording_ = recording;
    stream_ = stream;
  }
  // Gives up a sum that was started.
  void Abandon();

  int size() const { return communicator_ == nullptr ? 1 : communicator_->size(); }
  int rank() const { return communicator_ == nullptr ? 0 : communicator_->rank(); }
  const Status& status() const { return status_; }

  // x = sum over ranks, in rank order's tree. x: f32, the same shape on all ranks.
  void Sum(const Tensor& x);
  // The same in two halves, with work of the caller's between them.
  void StartSum(const Tensor& x);
  void FinishSum();
  // all: [size, ...]; row `rank` is filled in already; afterwards all rows are.
  void Gather(const Tensor& all);

 private:
  void Do(Recording::HostCall call);
  Status Finish(Work work, Stream* follower);
  Stream* follower() const { return recording_ == nullptr ? nullptr : stream_; }

  Communicator* communicator_ = nullptr;
  Micros timeout_ = 0;
  Recording* recording_ = nullptr;
  Stream* stream_ = nullptr;
  bool summing_ = false;
  Work pending_;
  Status status_;
};

}  // namespace trireme
