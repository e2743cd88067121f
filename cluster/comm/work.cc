#include <utility>

#include "cluster/comm/comm_engine.h"

namespace trireme {

Work::Work() = default;
Work::Work(std::shared_ptr<State> state) : state_(std::move(state)) {}
Work::Work(Work&&) noexcept = default;

Work& Work::operator=(Work&& other) noexcept {
  CHECK(!valid() || Test()) << state_->operation->Describe()
                            << ": its Work is overwritten, neither done nor abandoned";
  state_ = std::move(other.state_);
  return *this;
}

Work::~Work() {
  CHECK(!valid() || Test()) << state_->operation->Describe()
                            << ": its Work is destroyed, neither done nor abandoned";
}

bool Work::valid() const { return state_ != nullptr; }

bool Work::Test() const {
  CHECK(valid()) << "a Work without an operation";
  return state_->operation->finished();
}

Status Work::Wait(Micros timeout) {
  CHECK(valid()) << "a Work without an operation";
  return state_->engine->Wait(*state_->operation, timeout);
}

void Work::Abandon(std::shared_ptr<void> keep_alive) {
  CHECK(valid()) << "a Work without an operation";
  state_->engine->Abandon(state_->operation, std::move(keep_alive));
}

}  // namespace trireme
