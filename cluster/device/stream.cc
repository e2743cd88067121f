#include "cluster/device/stream.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

namespace trireme {
namespace {

// Threads of all streams of this process; more than the cores we may use means no spinning.
std::atomic<int> threads_in_process{0};

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace

struct Stream::Pool {
  explicit Pool(int threads) : threads(threads) {
    omp_set_num_threads(1);  // of the calling thread; library calls inside blocks stay on it
    threads_in_process += threads;
    for (int i = 1; i < threads; ++i) helpers.emplace_back([this] { Help(); });
  }

  ~Pool() {
    {
      std::lock_guard lock(mutex);
      closing = true;
    }
    wake.notify_all();
    for (std::thread& helper : helpers) helper.join();
    threads_in_process -= threads;
  }

  void Run(int64_t count, FunctionRef<void(int64_t)> body) {
    {
      std::lock_guard lock(mutex);
      blocks = count;
      next.store(0, std::memory_order_relaxed);
      running = threads - 1;
      job = &body;
      round.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    Drain(body, count);
    for (int i = 0; i < SpinLimit() && running.load(std::memory_order_acquire) > 0; ++i) Relax();
    std::unique_lock lock(mutex);
    done.wait(lock, [this] { return running.load() == 0; });
  }

  void Drain(FunctionRef<void(int64_t)> body, int64_t count) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(i);
  }

  void Help() {
    omp_set_num_threads(1);
    int64_t seen = 0;
    while (true) {
      for (int i = 0; i < SpinLimit() && round.load(std::memory_order_acquire) == seen; ++i) {
        Relax();
      }
      FunctionRef<void(int64_t)>* body;
      int64_t count;
      {
        std::unique_lock lock(mutex);
        wake.wait(lock, [&] { return closing || round.load() != seen; });
        if (closing) return;
        seen = round.load();
        body = job;
        count = blocks;
      }
      Drain(*body, count);
      if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) {
        std::lock_guard lock(mutex);
        done.notify_one();
      }
    }
  }

  int SpinLimit() const { return threads_in_process.load() > cores ? 0 : 4000; }
  static void Relax() { __builtin_ia32_pause(); }

  const int threads;
  const int cores = UsableCores();
  std::vector<std::thread> helpers;
  std::mutex mutex;
  std::condition_variable wake, done;
  std::atomic<int64_t> round{0};
  std::atomic<int64_t> next{0};
  std::atomic<int> running{0};
  int64_t blocks = 0;
  FunctionRef<void(int64_t)>* job = nullptr;
  bool closing = false;
};

Stream::Stream(int threads) : pool_(std::make_unique<Pool>(std::max(1, threads))) {}
Stream::~Stream() = default;

int Stream::threads() const { return pool_->threads; }

void Stream::ParallelFor(int64_t blocks, FunctionRef<void(int64_t)> block) {
  if (pool_->threads == 1 || blocks <= 1) {
    for (int64_t i = 0; i < blocks; ++i) block(i);
    return;
  }
  pool_->Run(blocks, block);
}

void Stream::Copy(void* target, const void* source, int64_t bytes) {
  std::memcpy(target, source, bytes);
}
void Stream::Fill(void* target, int byte, int64_t bytes) { std::memset(target, byte, bytes); }
StreamEvent Stream::Record() { return StreamEvent(); }
void Stream::Wait(const StreamEvent&) {}
void Stream::Synchronize() {}

}  // namespace trireme
