#include "parallelism/tensor_group.h"

#include <utility>

namespace trireme {

TensorGroup::TensorGroup(Communicator* communicator, Micros timeout)
    : communicator_(communicator), timeout_(timeout) {}

void TensorGroup::Finish(Work work) {
  const Status status = work.Wait(timeout_);
  if (status.ok()) return;
  work.Abandon();
  if (status_.ok()) status_ = status;
}

void TensorGroup::StartSum(const Tensor& x) {
  if (size() == 1 || !status_.ok()) return;
  CHECK(x.dtype() == DType::kF32);
  CHECK(!pending_.valid()) << "one sum at a time";
  pending_ = communicator_->AllReduce(BufferRef{x.data(), x.elements(), DType::kF32});
}

void TensorGroup::FinishSum() {
  if (!pending_.valid()) return;
  Finish(std::exchange(pending_, Work()));
}

void TensorGroup::Sum(const Tensor& x) {
  StartSum(x);
  FinishSum();
}

void TensorGroup::Gather(const Tensor& all) {
  if (size() == 1 || !status_.ok()) return;
  CHECK_EQ(all.dim(0), size());
  const int64_t row = all.elements() / size();
  std::vector<Piece> pieces;
  for (int r = 0; r < size(); ++r) pieces.push_back({r, r * row, (r + 1) * row});
  Finish(communicator_->AllGather({all.data(), all.elements(), all.dtype()}, pieces));
}

}  // namespace trireme
