#include "cluster/comm/comm_engine.h"

#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <utility>

namespace trireme {
namespace {

// Polling transports: how many rounds without news a driver only yields, and how long it sleeps
// after them. Yielding keeps the latency of a quiet machine; sleeping frees the cores for compute.
constexpr int kYieldRounds = 2000;
constexpr Micros kSleepMin = 20;
constexpr Micros kSleepMax = 200;
// For a while after the last operation the progress thread sleeps in naps: an operation that the
// caller submits and awaits at once then costs no wake-up.
constexpr Micros kNapMin = 50;
// A caller that has just submitted will often wait: the progress thread stays out of its way.
constexpr Micros kCallerFirst = 100;
constexpr Micros kNapMax = 2000;
constexpr Micros kNapsFor = 10'000;

}  // namespace

void Waker::Notify() {
  epoch_.fetch_add(1);
  if (sleepers_.load() == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  condition_.notify_all();
}

void Waker::Sleep(uint64_t seen, Micros timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1);
  const auto news = [&] { return epoch_.load() != seen; };
  if (timeout < 0) {
    condition_.wait(lock, news);
  } else {
    condition_.wait_for(lock, std::chrono::microseconds(timeout), news);
  }
  sleepers_.fetch_sub(1);
}

CommEngine::CommEngine(std::unique_ptr<MessageTransport> transport, std::shared_ptr<Waker> events)
    : transport_(std::move(transport)), events_(std::move(events)) {
  thread_ = std::thread([this] { Run(); });
}

CommEngine::~CommEngine() { Stop(); }

void CommEngine::Stop() {
  if (!thread_.joinable()) return;
  stop_ = true;
  work_.Notify();
  events_->Notify();
  thread_.join();
}

std::unique_lock<std::mutex> CommEngine::Lock() {
  lockers_.fetch_add(1);
  std::unique_lock<std::mutex> lock(mutex_);
  lockers_.fetch_sub(1);
  return lock;
}

void CommEngine::Run() {
  prctl(PR_SET_NAME, "trireme-comm");
  prctl(PR_SET_TIMERSLACK, 1000);
  int idle_rounds = 0;
  Micros nap = kNapMin;
  while (!stop_) {
    const uint64_t work_seen = work_.Epoch();
    const uint64_t events_seen = events_->Epoch();
    bool parked = true;
    bool progressed = false;
    nap = std::min(2 * nap, kNapMax);
    Micros sleep = nap;
    // Never in a caller's way: one that holds the lock drives already.
    if (std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        lock.owns_lock() && lockers_.load() == 0) {
      const bool idle = active_.empty() && !transport_->Busy();
      const Micros now = RealClock().NowMicros();
      const bool caller_is_near = helpers_.load() > 0 || now - last_call_ < kCallerFirst;
      parked = idle || caller_is_near;
      if (!idle) last_active_ = now;
      dozing_ = parked && now - last_active_ < kNapsFor;
      if (!parked) nap = kNapMin;
      sleep = dozing_ ? nap : -1;
      if (!parked) progressed = Drive();
    } else {
      dozing_ = true;
    }
    if (parked) {
      idle_rounds = 0;
      if (!stop_) work_.Sleep(work_seen, sleep);
    } else if (progressed) {
      idle_rounds = 0;
    } else {
      Pause(events_seen, ++idle_rounds, -1);
    }
  }
}

void CommEngine::Pause(uint64_t seen, int idle_rounds, Micros at_most) {
  if (transport_->wakes()) {
    if (!stop_) events_->Sleep(seen, at_most);
    return;
  }
  if (idle_rounds < transport_->spin_rounds()) return;
  if (idle_rounds < transport_->spin_rounds() + kYieldRounds) {
    sched_yield();
    return;
  }
  Micros sleep = std::min<Micros>(kSleepMax, kSleepMin + idle_rounds - kYieldRounds);
  if (at_most >= 0) sleep = std::min(sleep, at_most);
  std::this_thread::sleep_for(std::chrono::microseconds(sleep));
}

bool CommEngine::Drive() {
  bool progressed = transport_->Poll();
  for (size_t i = 0; i < active_.size();) {
    CommOperation& operation = *active_[i];
    progressed |= operation.Advance(*transport_);
    for (const auto& transfer : operation.transfers) {
      if (transfer->status.ok()) continue;
      operation.Finish(transfer->status.WithContext(operation.Describe()));
    }
    if (!operation.finished()) {
      ++i;
      continue;
    }
    progressed = true;
    if (!operation.status.ok()) Retire(active_[i]);
    active_.erase(active_.begin() + i);
    events_->Notify();  // whoever waits for it
  }
  return progressed;
}

void CommEngine::Submit(std::shared_ptr<CommOperation> operation) {
  bool wake = false;
  {
    auto lock = Lock();
    CommGroup& group = *operation->group;
    if (group.revoked) {
      operation->Finish(UnavailableError(StrCat(operation->Describe(), ": ", group.revoke_reason)));
      return;
    }
    operation->Start(*transport_);
    operation->Advance(*transport_);
    if (operation->finished()) {
      if (!operation->status.ok()) Retire(operation);
    } else {
      active_.push_back(std::move(operation));
    }
    last_call_ = last_active_ = RealClock().NowMicros();
    wake = !dozing_ && helpers_.load() == 0;
  }
  if (wake) {
    work_.Notify();
    events_->Notify();
  }
}

Status CommEngine::Wait(CommOperation& operation, Micros timeout) {
  if (operation.finished()) return operation.status;
  const Micros begin = RealClock().NowMicros();
  helpers_.fetch_add(1);
  int idle_rounds = 0;
  Status status;
  while (true) {
    const uint64_t seen = events_->Epoch();
    bool progressed = false;
    {
      auto lock = Lock();
      if (!operation.finished()) progressed = Drive();
      if (operation.finished()) {
        status = operation.status;
        break;
      }
    }
    idle_rounds = progressed ? 0 : idle_rounds + 1;
    if (progressed) continue;
    const Micros waited = RealClock().NowMicros() - begin;
    if (waited >= timeout) {
      auto lock = Lock();
      status = DeadlineExceededError(operation.DescribeWait(waited));
      break;
    }
    Pause(seen, idle_rounds, timeout - waited);
  }
  if (helpers_.fetch_sub(1) == 1) {
    bool wake = false;
    {
      auto lock = Lock();
      last_call_ = RealClock().NowMicros();
      wake = !dozing_ && (!active_.empty() || transport_->Busy());
    }
    if (wake) work_.Notify();  // the progress thread takes over
  }
  return status;
}

// A failed operation's transfers are given up; its memory goes to the transport's graveyard.
void CommEngine::Retire(const std::shared_ptr<CommOperation>& operation) {
  for (const auto& transfer : operation->transfers) {
    if (!transfer->complete) transport_->Drop(transfer.get(), operation);
  }
}

void CommEngine::Abandon(const std::shared_ptr<CommOperation>& operation,
                         std::shared_ptr<void> keep_alive) {
  {
    auto lock = Lock();
    operation->keep_alive = std::move(keep_alive);
    const bool in_flight = !operation->finished();
    operation->Finish(
        UnavailableError(StrCat(CommOperation::KindName(operation->kind), " ", operation->sequence,
                                " of ", operation->group->Describe(), " was abandoned")));
    if (in_flight) {
      Retire(operation);
      std::erase(active_, operation);
    }
  }
  work_.Notify();
  events_->Notify();
}

void CommEngine::RevokeLocked(CommGroup& group, const std::string& reason) {
  if (group.revoked) return;
  group.revoked = true;
  group.revoke_reason = reason;
  for (size_t i = 0; i < active_.size();) {
    if (active_[i]->group.get() != &group) {
      ++i;
      continue;
    }
    active_[i]->Finish(
        UnavailableError(StrCat(CommOperation::KindName(active_[i]->kind), " ",
                                active_[i]->sequence, " of ", group.Describe(), ": ", reason)));
    Retire(active_[i]);
    active_.erase(active_.begin() + i);
  }
}

void CommEngine::Revoke(CommGroup& group, const std::string& reason) {
  {
    auto lock = Lock();
    RevokeLocked(group, reason);
  }
  work_.Notify();
  events_->Notify();
}

std::string CommEngine::DescribeWait(const CommOperation& operation, Micros waited) {
  auto lock = Lock();
  return operation.DescribeWait(waited);
}

void CommEngine::AddGroup(const std::shared_ptr<CommGroup>& group) {
  {
    auto lock = Lock();
    std::erase_if(groups_, [](const auto& weak) { return weak.expired(); });
    if (group->generation > generation_) {
      generation_ = group->generation;
      for (const auto& weak : groups_) {
        if (auto old = weak.lock(); old != nullptr && old->generation < generation_) {
          RevokeLocked(*old, StrCat("generation ", generation_, " has begun"));
        }
      }
      transport_->BeginGeneration(generation_);
    }
    if (group->generation < generation_) {
      RevokeLocked(*group, StrCat("generation ", generation_, " has begun"));
    }
    groups_.push_back(group);
  }
  events_->Notify();
}

}  // namespace trireme
