// Many threads, one order: batches are made one after the other, worked on in parallel and taken
// in the order in which they were made, so that the result does not depend on the threads.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

// produce(&batch) fills a batch and returns its size in bytes, or -1 at the end; called on one
// thread. work(batch) runs on any of `threads` threads. consume(batch) runs on the calling thread.
// The first error in batch order ends the run and is returned. In flight are at most `bytes_max`
// bytes or one batch, whichever is more, and 4 * threads batches.
template <typename Batch>
Status RunOrdered(int threads, int64_t bytes_max,
                  const std::function<Result<int64_t>(Batch*)>& produce,
                  const std::function<Status(Batch&)>& work,
                  const std::function<Status(Batch&)>& consume) {
  struct Slot {
    Batch batch;
    int64_t bytes = 0;
    Status status;
    bool taken = false;
    bool done = false;
  };
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::unique_ptr<Slot>> slots;  // in order; the front is consumed next
  int64_t bytes = 0;
  bool ended = false;    // nothing more is produced
  bool stopped = false;  // nothing more is wanted
  const size_t slots_max = 4 * static_cast<size_t>(threads);

  const auto producer = [&] {
    while (true) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] {
          return stopped || slots.empty() || (slots.size() < slots_max && bytes < bytes_max);
        });
        if (stopped) return;
      }
      auto slot = std::make_unique<Slot>();
      Result<int64_t> size = produce(&slot->batch);
      const std::lock_guard lock(mutex);
      changed.notify_all();
      ended = !size.ok() || *size < 0;
      if (size.ok() && *size < 0) return;
      slot->status = size.status();
      slot->bytes = size.ok() ? *size : 0;
      slot->taken = slot->done = !size.ok();
      bytes += slot->bytes;
      slots.push_back(std::move(slot));
      if (ended) return;
    }
  };
  const auto worker = [&] {
    while (true) {
      Slot* mine = nullptr;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] {
          for (const auto& slot : slots) {
            if (!slot->taken) {
              mine = slot.get();
              break;
            }
          }
          return mine != nullptr || ended || stopped;
        });
        if (mine == nullptr || stopped) return;
        mine->taken = true;
      }
      Status status = work(mine->batch);
      const std::lock_guard lock(mutex);
      mine->status = std::move(status);
      mine->done = true;
      changed.notify_all();
    }
  };

  std::vector<std::thread> pool;
  pool.emplace_back(producer);
  for (int i = 0; i < threads; ++i) pool.emplace_back(worker);
  Status result;
  while (result.ok()) {
    std::unique_ptr<Slot> slot;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock,
                   [&] { return slots.empty() ? ended : static_cast<bool>(slots.front()->done); });
      if (slots.empty()) break;
      slot = std::move(slots.front());
      slots.pop_front();
    }
    result = slot->status.ok() ? consume(slot->batch) : slot->status;
    const std::lock_guard lock(mutex);
    bytes -= slot->bytes;
    changed.notify_all();
  }
  {
    const std::lock_guard lock(mutex);
    stopped = true;
    changed.notify_all();
  }
  for (std::thread& thread : pool) thread.join();
  return result;
}

}  // namespace trireme
