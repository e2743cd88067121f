#include "cluster/comm/device_engine.h"

#include <sys/prctl.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <utility>

namespace trireme {
namespace {

// How long pollers sleep between two looks: short against a collective, long against a core.
constexpr Micros kPollMicros = 30;
constexpr Micros kPollMicrosMax = 300;
// Who only waits for an operation's start looks again at once, for so long.
constexpr Micros kSpinMicros = 100;

}  // namespace

void Graveyard::Bury(std::vector<std::shared_ptr<void>> memory) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (cleared_) return;
  for (auto& each : memory) memory_.push_back(std::move(each));
}

void Graveyard::Clear() {
  std::vector<std::shared_ptr<void>> memory;  // outlives the lock: releasing may take long
  std::lock_guard<std::mutex> lock(mutex_);
  cleared_ = true;
  memory.swap(memory_);
}

void DeviceOperation::Finish(Status end_status) {
  if (finished()) return;
  status = std::move(end_status);
  ended.store(true, std::memory_order_release);
}

std::string DeviceOperation::Describe() const {
  return StrCat(CommOperation::KindName(kind), " ", sequence, " of ", group->Describe());
}

DeviceEngine::DeviceEngine(const std::string& thread_name) {
  thread_ = std::thread([this, thread_name] { Run(thread_name); });
}

DeviceEngine::~DeviceEngine() { Stop(); }

void DeviceEngine::Stop() {
  if (!thread_.joinable()) return;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
    for (const auto& group : groups_) RevokeLocked(*group, "its factory is gone");
  }
  news_.notify_all();
  thread_.join();
}

void DeviceEngine::Run(const std::string& thread_name) {
  prctl(PR_SET_NAME, thread_name.c_str());
  prctl(PR_SET_TIMERSLACK, 1000);
  std::unique_lock<std::mutex> lock(mutex_);
  Micros sleep = kPollMicros;
  while (!stop_) {
    if (!Busy()) {
      news_.wait(lock);
      continue;
    }
    sleep = Drive() ? kPollMicros : std::min(2 * sleep, kPollMicrosMax);
    // Not news_: every end of an operation would wake this thread for nothing.
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(sleep));
    lock.lock();
  }
}

bool DeviceEngine::Busy() const {
  return std::any_of(groups_.begin(), groups_.end(),
                     [](const auto& group) { return group->busy(); });
}

bool DeviceEngine::Drive() {
  bool progressed = false;
  for (const auto& group : groups_) progressed |= group->Advance();
  std::erase_if(groups_, [](const auto& group) { return group->closed && !group->busy(); });
  if (progressed) news_.notify_all();
  return progressed;
}

void DeviceEngine::AddGroup(std::shared_ptr<DeviceGroup> group) {
  std::lock_guard<std::mutex> lock(mutex_);
  const uint64_t generation = group->group->generation;
  groups_.push_back(std::move(group));
  generation_ = std::max(generation_, generation);
  for (const auto& other : groups_) {
    if (other->group->generation < generation_) {
      RevokeLocked(*other, StrCat("generation ", generation_, " has begun"));
    }
  }
}

void DeviceEngine::CloseGroup(DeviceGroup& group) {
  std::lock_guard<std::mutex> lock(mutex_);
  group.closed = true;
  std::erase_if(followed_, [&](const auto& other) { return other->group == group.group; });
  std::erase_if(groups_, [](const auto& other) { return other->closed && !other->busy(); });
}

void DeviceEngine::Submit(const std::shared_ptr<DeviceOperation>& operation, DeviceGroup& group,
                          const std::function<void()>& start) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    operation->begun = RealClock().NowMicros();
    if (group.group->revoked) {
      operation->Finish(
          UnavailableError(StrCat(operation->Describe(), ": ", group.group->revoke_reason)));
      return;
    }
    start();
    group.Advance();
  }
  news_.notify_all();
}

Status DeviceEngine::Wait(DeviceOperation& operation, Micros timeout) {
  if (operation.finished()) return operation.status;
  std::unique_lock<std::mutex> lock(mutex_);
  return Await(&lock, operation, timeout, /*until_under_way=*/false);
}

Status DeviceEngine::Await(std::unique_lock<std::mutex>* lock, DeviceOperation& operation,
                           Micros timeout, bool until_under_way) {
  const Micros begin = RealClock().NowMicros();
  Micros sleep = kPollMicros;
  const auto reached = [&] {
    return operation.finished() || (until_under_way && operation.under_way);
  };
  while (true) {
    const bool progressed = !reached() && Drive();
    if (operation.finished()) return operation.status;
    if (reached()) return OkStatus();
    if (progressed) continue;
    const Micros waited = RealClock().NowMicros() - begin;
    if (waited >= timeout) {
      return DeadlineExceededError(operation.Describe() + operation.describe_wait(waited));
    }
    if (until_under_way && waited < kSpinMicros) {
      lock->unlock();
      std::this_thread::yield();
      lock->lock();
      continue;
    }
    sleep = std::min(2 * sleep, kPollMicrosMax);
    news_.wait_for(*lock, std::chrono::microseconds(std::min(sleep, timeout - waited)));
  }
}

Status DeviceEngine::Follow(const std::shared_ptr<DeviceOperation>& operation, Stream& stream,
                            Micros timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  RETURN_IF_ERROR(Await(&lock, *operation, timeout, /*until_under_way=*/true));
  if (operation->finished()) return OkStatus();
  std::erase_if(followed_,
                [](const auto& other) { return other->finished() && other->status.ok(); });
  followed_.push_back(operation);
  stream.Wait(operation->results);
  return OkStatus();
}

Status DeviceEngine::Settle(const DeviceGroup& group, Micros timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  Status first;
  std::vector<std::shared_ptr<DeviceOperation>> mine;
  std::erase_if(followed_, [&](const auto& operation) {
    if (operation->group != group.group) return false;
    mine.push_back(operation);
    return true;
  });
  for (const auto& operation : mine) {
    if (first.ok()) first = Await(&lock, *operation, timeout, /*until_under_way=*/false);
    if (!operation->finished()) followed_.push_back(operation);
  }
  return first;
}

std::string DeviceEngine::DescribeWait(DeviceOperation& operation, Micros waited) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (operation.finished()) return operation.Describe() + " is done";
  return operation.Describe() + operation.describe_wait(waited);
}

void DeviceEngine::Abandon(DeviceOperation& operation, std::shared_ptr<void> keep_alive) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    // Its steps go on where they cannot be taken back; they hold the memory until they are over.
    if (operation.graveyard != nullptr) {
      operation.graveyard->Bury({std::move(keep_alive)});
    } else if (keep_alive != nullptr) {
      operation.held.push_back(std::move(keep_alive));
    }
    operation.Finish(UnavailableError(operation.Describe() + " was abandoned"));
  }
  news_.notify_all();
}

void DeviceEngine::RevokeLocked(DeviceGroup& group, const std::string& reason) {
  if (group.group->revoked) return;
  group.group->revoked = true;
  group.group->revoke_reason = reason;
  group.End(reason);
}

void DeviceEngine::Revoke(DeviceGroup& group, const std::string& reason) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    RevokeLocked(group, reason);
  }
  news_.notify_all();
}

std::shared_ptr<std::byte> ScratchPool::Take(int64_t bytes) {
  std::shared_ptr<Buffer> buffer;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    auto best = free_.end();
    for (auto it = free_.begin(); it != free_.end(); ++it) {
      if ((*it)->bytes() < bytes) continue;
      if (best == free_.end() || (*it)->bytes() < (*best)->bytes()) best = it;
    }
    if (best != free_.end()) {
      buffer = std::move(*best);
      free_.erase(best);
    }
  }
  if (buffer == nullptr) {
    const auto rounded = std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(bytes, 4096)));
    buffer = std::make_shared<Buffer>(make_(static_cast<int64_t>(rounded)));
  }
  std::byte* data = buffer->data();
  return {data, [pool = shared_from_this(), buffer = std::move(buffer)](std::byte*) mutable {
            std::lock_guard<std::mutex> lock(pool->mutex_);
            pool->free_.push_back(std::move(buffer));
          }};
}

}  // namespace trireme
