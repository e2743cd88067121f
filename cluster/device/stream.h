// Stream: an order of work on a device. On a CPU work is done at once, its blocks spread over the
// stream's own threads; on a GPU it is a CUDA stream.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "cluster/device/tensor.h"

namespace trireme {

// A function that outlives the call it is passed to. Never stored.
template <typename Signature>
class FunctionRef;
template <typename R, typename... Args>
class FunctionRef<R(Args...)> {
 public:
  template <typename F>
  FunctionRef(const F& f)  // NOLINT: implicit on purpose
      : object_(&f), call_([](const void* object, Args... args) -> R {
          return (*static_cast<const F*>(object))(args...);
        }) {}
  R operator()(Args... args) const { return call_(object_, args...); }

 private:
  const void* object_;
  R (*call_)(const void*, Args...);
};

class OperationLog;

// A GPU by CUDA's number: from 0, among those the process may see.
struct Gpu {
  int ordinal = 0;
};

// Whose blocks a GPU starts first when there is room for some.
enum class StreamPriority { kOrdinary, kFirst };

// A point in a stream's order; other streams and the host can wait for it. A default one, and one
// of a CPU stream, is always reached. Copies share the point.
class StreamEvent {
 public:
  StreamEvent() = default;
  // Blocks the host until the work before the event is done. A device error ends the process.
  void Synchronize() const;
  // Whether that work is done. Never blocks. A device error ends the process.
  bool Reached() const;
  // Time from the earlier event to this one, both recorded as timed; waits for both. Milliseconds.
  double MillisecondsSince(const StreamEvent& earlier) const;

 private:
  friend class Stream;
  struct State;
  std::shared_ptr<State> state_;
};

// Used by one thread at a time.
class Stream {
 public:
  // A CPU stream with `threads` threads, the caller being one of them. Workers of the pool sleep
  // between calls, after a short spin when the process does not ask for more threads than cores.
  explicit Stream(int threads);
  // An order of work of its own on a GPU, which becomes the calling thread's GPU (Buffers are made
  // there). The process ends with one line where there is no such GPU; Gpus() tells first.
  explicit Stream(Gpu gpu, StreamPriority priority = StreamPriority::kOrdinary);
  // Waits for the work.
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  DeviceKind device() const { return gpu_ == nullptr ? DeviceKind::kCpu : DeviceKind::kCuda; }
  int threads() const;  // 1 on a GPU
  // The GPU's number, -1 on a CPU.
  int gpu() const;
  // Whether work can be recorded as a graph: on a GPU, unless each operation is waited for or
  // timed.
  bool CanRecord() const;
  // The cudaStream_t, null on a CPU. Makes the stream's GPU that of the calling thread, as launches
  // want it.
  void* native() const;

  // Every operation with a GPU form begins with `if (stream.OnGpu("Name")) return cuda::Name(...)`:
  // true on a GPU, where it notes the name for the line that an error ends with. `operation` is a
  // literal. With TRIREME_CUDA_BLOCKING=1 it first waits for the operation before, so that an error
  // names exactly one.
  bool OnGpu(const char* operation) { return gpu_ != nullptr && EnterOperation(operation); }

  // Calls block(i) for every i in [0, blocks), each on one thread, in no order. Results must not
  // depend on which thread runs a block. Not re-entrant. Each pool thread runs single-threaded
  // library calls (omp_set_num_threads(1) is set once on it). CPU streams only.
  void ParallelFor(int64_t blocks, FunctionRef<void(int64_t block)> block);

  // Ordered on the stream. On a GPU's stream each side may be memory of the GPU or of the host; the
  // host's must stay as it is until the stream has passed, and copies to or from it overlap the
  // host's own work only if it is pinned (Buffer::Pinned).
  void Copy(void* target, const void* source, int64_t bytes);
  void Fill(void* target, int byte, int64_t bytes);
  // timed: for MillisecondsSince.
  StreamEvent Record(bool timed = false);
  // Work that is enqueued from here on runs after the event. Does not block the host.
  void Wait(const StreamEvent& event);
  // Blocks the host until all work is done. A device error ends the process with one line.
  void Synchronize();

 private:
  struct Pool;
  struct GpuState;
  friend class Graph;
  friend class OperationTimes;
  bool EnterOperation(const char* operation);

  std::unique_ptr<Pool> pool_;
  std::unique_ptr<GpuState> gpu_;
};

}  // namespace trireme
