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

// A point in a stream's order; other streams and the host can wait for it.
class StreamEvent {
 public:
  // Blocks the host until the work before the event is done.
  void Synchronize() const {}
};

class Stream {
 public:
  // A CPU stream with `threads` threads, the caller being one of them. Workers of the pool sleep
  // between calls, after a short spin when the process does not ask for more threads than cores.
  explicit Stream(int threads);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  DeviceKind device() const { return DeviceKind::kCpu; }
  int threads() const;

  // Calls block(i) for every i in [0, blocks), each on one thread, in no order. Results must not
  // depend on which thread runs a block. Not re-entrant. Each pool thread runs single-threaded
  // library calls (omp_set_num_threads(1) is set once on it).
  void ParallelFor(int64_t blocks, FunctionRef<void(int64_t block)> block);

  // Ordered on the stream.
  void Copy(void* target, const void* source, int64_t bytes);
  void Fill(void* target, int byte, int64_t bytes);
  StreamEvent Record();
  void Wait(const StreamEvent& event);
  // Blocks the host until all work is done. A device error ends the process with one line.
  void Synchronize();

 private:
  struct Pool;
  std::unique_ptr<Pool> pool_;
};

}  // namespace trireme
