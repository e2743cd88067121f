#include "parallelism/tensor_group.h"

#include <utility>

namespace trireme {

TensorGroup::TensorGroup(Communicator* communicator, Micros timeout)
    : communicator_(communicator), timeout_(timeout) {}

void TensorGroup::Abandon() {
  if (pending_.valid()) pending_.Abandon();
  pending_ = Work();
  summing_ = false;
}

void TensorGroup::Do(Recording::HostCall call) {
  const Status status = CallOrRecord(recording_, std::move(call));
  if (status_.ok()) status_ = status;
}

// follower: goes on behind the work; without one it is waited for.
Status TensorGroup::Finish(Work work, Stream* follower) {
  Status status = work.WaitOrFollow(follower, timeout_);
  if (!status.ok()) work.Abandon();
  return status;
}

void TensorGroup::StartSum(const Tensor& x) {
  if (size() == 1 || !status_.ok()) return;
  CHECK(x.dtype() == DType::kF32);
  CHECK(!summing_) << "one sum at a time";
  summing_ = true;
  Do([this, ref = BufferRef{x.data(), x.elements(), DType::kF32}] {
    pending_ = communicator_->AllReduce(ref);
    return OkStatus();
  });
}

void TensorGroup::FinishSum() {
  if (!std::exchange(summing_, false)) return;
  Do([this, follower = follower()] { return Finish(std::exchange(pending_, Work()), follower); });
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
  Do([this, ref = BufferRef{all.data(), all.elements(), all.dtype()}, pieces,
      follower = follower()] { return Finish(communicator_->AllGather(ref, pieces), follower); });
}

}  // namespace trireme
