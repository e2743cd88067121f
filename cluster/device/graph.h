// Graph: work that is enqueued once and then run many times at the cost of one launch.
#pragma once

#include <functional>

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

  bool defined() const { return exec_ != nullptr || body_ != nullptr; }
  // Runs the work once, ordered on the stream: the one of the capture, or another of its device.
  void Launch(Stream& stream) const;

 private:
  std::function<void()> body_;  // on a CPU
  void* exec_ = nullptr;        // on a GPU
  int gpu_ = -1;
};

}  // namespace trireme
