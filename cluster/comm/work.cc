#include <utility>

#include "cluster/comm/work_state.h"

namespace trireme {

Work::Work() = default;
Work::Work(std::shared_ptr<State> state) : state_(std::move(state)) {}
Work::Work(Work&&) noexcept = default;

Work& Work::operator=(Work&& other) noexcept {
  CHECK(!valid() || Test()) << state_->Describe()
                            << ": its Work is overwritten, neither done nor abandoned";
  state_ = std::move(other.state_);
  return *this;
}

Work::~Work() {
  CHECK(!valid() || Test()) << state_->Describe()
                            << ": its Work is destroyed, neither done nor abandoned";
}

bool Work::valid() const { return state_ != nullptr; }

bool Work::Test() const {
  CHECK(valid()) << "a Work without an operation";
  return state_->Test();
}

Status Work::Wait(Micros timeout) {
  CHECK(valid()) << "a Work without an operation";
  return state_->Wait(timeout);
}

Status Work::Follow(Stream& stream, Micros timeout) {
  CHECK(valid()) << "a Work without an operation";
  RETURN_IF_ERROR(state_->Follow(stream, timeout));
  state_.reset();
  return OkStatus();
}

void Work::Abandon(std::shared_ptr<void> keep_alive) {
  CHECK(valid()) << "a Work without an operation";
  state_->Abandon(std::move(keep_alive));
}

std::string Work::DescribeWait(Micros waited) const {
  CHECK(valid()) << "a Work without an operation";
  return state_->DescribeWait(waited);
}

}  // namespace trireme
