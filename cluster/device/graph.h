// Graph: work that is enqueued once and then run many times at the cost of one launch.
#pragma once

#include <functional>
#include <variant>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/device/stream.h"

namespace trireme {

// Move-only. Addresses and sizes are those of the capture: whatever the body used must stay where
// it is for as long as the graph is launched.
class Graph {
 public:
  Graph() = default;
  // On a GPU `body` is called once, now: what it enqueues on the stream, and on streams that wait
  // for it and that it waits for again, is recorded and not run. It may neither wait for the stream
  // nor make Buffers. On a CPU nothing is called yet and `body` is kept.
  static Graph Capture(Stream& stream, std::function<void()> body);
  ~Graph();
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&& other) noexcept;

  // The same in two calls, on a GPU alone.
  static void BeginCapture(Stream& stream);
  static Graph EndCapture(Stream& stream);  // not defined() where nothing was enqueued

  bool defined() const { return exec_ != nullptr || body_ != nullptr; }
  // Runs the work once, ordered on the stream: the one of the capture, or another of its device.
  void Launch(Stream& stream) const;

 private:
  std::function<void()> body_;  // on a CPU
  void* exec_ = nullptr;        // on a GPU
  int gpu_ = -1;
};

// Work of a GPU's stream with calls of the host in between, recorded once and replayed many times:
// a graph for each stretch of work, and the calls at their places. What Graph says of addresses
// holds.
class Recording {
 public:
  using HostCall = std::function<Status()>;
  explicit Recording(Stream* stream) : stream_(stream) {}
  // One that keeps nothing: work and calls are run as they come, so that all is loaded, measured
  // and allocated. For steps whose results are worth nothing, with communicators that rehearse too.
  static Recording Rehearsal(Stream* stream);

  // From here to End what the thread enqueues on the stream is recorded and not run.
  void Begin();
  // Between Begin and End: `call` belongs here; it is not called before Replay. It may enqueue work
  // on any stream, and must not wait for this one. OK, but in a rehearsal what the call says.
  Status Call(HostCall call);
  void End();
  // Launches and calls, in the order of the recording, to the first call that fails. Does not wait
  // for the stream.
  Status Replay() const;
  int64_t graphs() const;

 private:
  void EndStretch();

  Stream* stream_;
  bool rehearsal_ = false;
  std::vector<std::variant<Graph, HostCall>> parts_;
};

// What the host does between works of a stream: at once, or at its place in the recording if there
// is one.
Status CallOrRecord(Recording* recording, Recording::HostCall call);

}  // namespace trireme
