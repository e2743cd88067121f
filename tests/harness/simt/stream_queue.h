// Queues of the fake CUDA runtime: streams, events and captured graphs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace trireme::simt {

struct StreamState;

// The records of an event are numbered; a wait is for the record that was the last one when the
// wait was queued.
struct EventState {
  uint64_t recorded = 0, done = 0;
  std::shared_ptr<StreamState> stream;  // of the last record
  std::chrono::steady_clock::time_point time;
  // Of a record inside a capture: the graph, and how much of the stream's work it covers.
  std::weak_ptr<struct GraphState> graph;
  uint64_t captured_works = 0;
};

// Captured work, in the order of the calls: one order that the dependencies allow.
struct GraphState {
  GraphState() = default;
  GraphState(const GraphState&) = delete;
  ~GraphState();

  struct Member {
    uint64_t works = 0, joined = 0;  // captured, and waited for by another stream
  };
  StreamState* origin = nullptr;
  std::vector<std::function<void()>> works;
  std::map<StreamState*, Member> members;
  std::vector<void*> memory;  // device memory that was freed inside the capture
  bool invalid = false;
};

// A piece of a stream's work, and whether it can run yet: asked when it is the first of its queue,
// again and again, without the lock. Empty: at once.
struct QueuedWork {
  std::function<void()> run;
  std::function<bool()> ready;
};

struct StreamState {
  int device = 0;
  bool waits_for_null_stream = true;
  std::deque<QueuedWork> queue;
  uint64_t queued = 0, completed = 0;
  bool busy = false;
  std::shared_ptr<GraphState> capture;
};

// All queues of the process. Work runs on the host thread that waits for it, without the lock; work
// of one stream in its order, one at a time.
class Queues {
 public:
  static Queues& Get();

  // Null when the handle is not a stream. A null handle is the null stream.
  std::shared_ptr<StreamState> Find(void* handle);
  StreamState* Create(int device, bool waits_for_null_stream);
  void Remove(StreamState* stream);

  void Push(const std::shared_ptr<StreamState>& stream, std::function<void()> work);
  // Work that holds up its stream until it is ready. Not inside a capture.
  void PushWhenReady(const std::shared_ptr<StreamState>& stream, QueuedWork work);
  void Record(const std::shared_ptr<EventState>& event, const std::shared_ptr<StreamState>& stream);
  void WaitFor(const std::shared_ptr<StreamState>& stream,
               const std::shared_ptr<EventState>& event);
  // Runs what is queued now, on one stream or on all of a device.
  void Drain(const std::shared_ptr<StreamState>& stream);
  void DrainAll(int device);
  void DrainEvent(const std::shared_ptr<EventState>& event);
  // From now on a thread runs whatever is ready, of all streams by turns, as a GPU does: work that
  // should have waited for another stream's does not wait by luck. For the rest of the process; an
  // error of a kernel ends it.
  void RunAhead();
  // Runs one piece of work, if it is ready; false when there was none.
  bool Progress(const std::shared_ptr<StreamState>& stream);

  std::mutex mutex;  // of every state above

 private:
  using Lock = std::unique_lock<std::mutex>;
  void PushLocked(const std::shared_ptr<StreamState>& stream, QueuedWork work);
  void DrainTo(Lock* lock, const std::shared_ptr<StreamState>& stream, uint64_t target);
  void RunUntil(Lock* lock, const std::shared_ptr<StreamState>& stream,
                const std::function<bool()>& done);
  bool RunOne(Lock* lock, const std::shared_ptr<StreamState>& stream);
  bool WaitIsOver(const std::shared_ptr<EventState>& event,
                  const std::shared_ptr<StreamState>& source, uint64_t number);

  void RunWhatIsReady();

  std::condition_variable moved_;
  bool runs_ahead_ = false;
  std::map<void*, std::shared_ptr<StreamState>> streams_;
  std::shared_ptr<StreamState> null_stream_ = std::make_shared<StreamState>();
};

}  // namespace trireme::simt
