#include "cluster/device/stream.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>
#include <thread>
#include <vector>

#include "cluster/device/cuda_device.h"
#include "cluster/device/stream_state.h"

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

Stream::Stream(Gpu gpu, StreamPriority priority) : gpu_(std::make_unique<GpuState>()) {
  const char* blocking = std::getenv("TRIREME_CUDA_BLOCKING");
  gpu_->ordinal = gpu.ordinal;
  gpu_->blocking = blocking != nullptr && std::string_view(blocking) == "1";
  gpu_->stream = cuda::CreateStream(gpu.ordinal, priority);
}

Stream::~Stream() {
  if (gpu_ == nullptr) return;
  Synchronize();
  cuda::DestroyStream(gpu_->stream);
}

int Stream::threads() const { return pool_ == nullptr ? 1 : pool_->threads; }

int Stream::gpu() const { return gpu_ == nullptr ? -1 : gpu_->ordinal; }

bool Stream::CanRecord() const {
  return gpu_ != nullptr && !gpu_->blocking && gpu_->timeline == nullptr;
}

void* Stream::native() const {
  if (gpu_ == nullptr) return nullptr;
  cuda::MakeCurrent(gpu_->ordinal);
  return gpu_->stream;
}

bool Stream::EnterOperation(const char* operation) {
  if (gpu_->blocking && gpu_->log->latest() != nullptr && !cuda::IsCapturing(gpu_->stream)) {
    Synchronize();
  }
  gpu_->log->Enter(operation);
  if (gpu_->timeline != nullptr) gpu_->timeline->emplace_back(operation, Record(true));
  return true;
}

void Stream::ParallelFor(int64_t blocks, FunctionRef<void(int64_t)> block) {
  CHECK(gpu_ == nullptr) << "work of the CPU on a GPU's stream: this operation has no GPU form";
  if (pool_->threads == 1 || blocks <= 1) {
    for (int64_t i = 0; i < blocks; ++i) block(i);
    return;
  }
  pool_->Run(blocks, block);
}

void Stream::Copy(void* target, const void* source, int64_t bytes) {
  if (!OnGpu("Copy")) {
    std::memcpy(target, source, bytes);
  } else if (bytes > 0) {
    cuda::CopyAsync(gpu_->ordinal, gpu_->stream, target, source, bytes, *gpu_->log);
  }
}

void Stream::Fill(void* target, int byte, int64_t bytes) {
  if (!OnGpu("Fill")) {
    std::memset(target, byte, bytes);
  } else if (bytes > 0) {
    cuda::FillAsync(gpu_->ordinal, gpu_->stream, target, byte, bytes, *gpu_->log);
  }
}

void Stream::Synchronize() {
  if (gpu_ == nullptr) return;
  cuda::SynchronizeStream(gpu_->ordinal, gpu_->stream, *gpu_->log);
  gpu_->log->Clear();
}

// Either an event of a GPU or, on a CPU's stream, the time when it was recorded.
struct StreamEvent::State {
  ~State() {
    if (event != nullptr) cuda::DestroyEvent(event);
  }
  int gpu = -1;
  bool timed = false;
  void* event = nullptr;
  std::shared_ptr<OperationLog> log;
  std::chrono::steady_clock::time_point time;
};

StreamEvent Stream::Record(bool timed) {
  StreamEvent result;
  if (gpu_ == nullptr && !timed) return result;  // reached already
  result.state_ = std::make_shared<StreamEvent::State>();
  StreamEvent::State& state = *result.state_;
  state.timed = timed;
  if (gpu_ == nullptr) {
    state.time = std::chrono::steady_clock::now();
  } else {
    state.gpu = gpu_->ordinal;
    state.log = gpu_->log;
    state.event = cuda::RecordEvent(gpu_->ordinal, gpu_->stream, timed, *gpu_->log);
  }
  return result;
}

void Stream::Wait(const StreamEvent& event) {
  if (event.state_ == nullptr || event.state_->event == nullptr) return;
  if (gpu_ == nullptr) return event.Synchronize();  // a CPU's work is done by the caller
  cuda::WaitForEvent(gpu_->ordinal, gpu_->stream, event.state_->event, *event.state_->log);
}

void StreamEvent::Synchronize() const {
  if (state_ == nullptr || state_->event == nullptr) return;
  cuda::SynchronizeEvent(state_->gpu, state_->event, *state_->log);
}

bool StreamEvent::Reached() const {
  if (state_ == nullptr || state_->event == nullptr) return true;
  return cuda::EventReached(state_->gpu, state_->event, *state_->log);
}

double StreamEvent::MillisecondsSince(const StreamEvent& earlier) const {
  CHECK(state_ != nullptr && earlier.state_ != nullptr) << "an event that was never recorded";
  CHECK(state_->timed && earlier.state_->timed) << "an event that was not recorded as timed";
  CHECK_EQ(state_->gpu, earlier.state_->gpu) << "events of two devices";
  if (state_->event == nullptr) {
    return std::chrono::duration<double, std::milli>(state_->time - earlier.state_->time).count();
  }
  earlier.Synchronize();
  Synchronize();
  return cuda::MillisecondsBetween(earlier.state_->event, state_->event);
}

}  // namespace trireme
