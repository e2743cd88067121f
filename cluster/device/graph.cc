#include "cluster/device/graph.h"

#include <algorithm>
#include <utility>

#include "cluster/device/cuda_device.h"
#include "cluster/device/stream_state.h"

namespace trireme {

Graph Graph::Capture(Stream& stream, std::function<void()> body) {
  CHECK(body != nullptr);
  Graph graph;
  if (stream.device() == DeviceKind::kCpu) {
    graph.body_ = std::move(body);
    return graph;
  }
  BeginCapture(stream);
  body();
  return EndCapture(stream);
}

void Graph::BeginCapture(Stream& stream) {
  Stream::GpuState& state = *stream.gpu_;
  stream.Synchronize();  // errors of the work before are told as that work's
  cuda::BeginCapture(state.ordinal, state.stream, *state.log);
}

Graph Graph::EndCapture(Stream& stream) {
  Stream::GpuState& state = *stream.gpu_;
  Graph graph;
  graph.gpu_ = stream.gpu();
  graph.exec_ = cuda::EndCapture(state.ordinal, state.stream, *state.log);
  state.log->Clear();
  return graph;
}

Graph::~Graph() {
  if (exec_ != nullptr) cuda::DestroyGraph(exec_);
}

Graph::Graph(Graph&& other) noexcept
    : body_(std::move(other.body_)),
      exec_(std::exchange(other.exec_, nullptr)),
      gpu_(std::exchange(other.gpu_, -1)) {
  other.body_ = nullptr;
}

Graph& Graph::operator=(Graph&& other) noexcept {
  std::swap(body_, other.body_);
  std::swap(exec_, other.exec_);
  std::swap(gpu_, other.gpu_);
  return *this;
}

void Graph::Launch(Stream& stream) const {
  CHECK(defined()) << "a graph that was never captured";
  CHECK_EQ(stream.gpu(), gpu_) << "a graph of another device";
  if (body_ != nullptr) return body_();
  stream.OnGpu("a graph");
  cuda::LaunchGraph(gpu_, stream.gpu_->stream, exec_, *stream.gpu_->log);
}

Recording Recording::Rehearsal(Stream* stream) {
  Recording rehearsal(stream);
  rehearsal.rehearsal_ = true;
  return rehearsal;
}

void Recording::Begin() {
  CHECK(parts_.empty()) << "a recording is made once";
  if (!rehearsal_) Graph::BeginCapture(*stream_);
}

Status Recording::Call(HostCall call) {
  if (rehearsal_) return call();
  EndStretch();
  parts_.emplace_back(std::move(call));
  Graph::BeginCapture(*stream_);
  return OkStatus();
}

void Recording::End() {
  if (!rehearsal_) EndStretch();
}

void Recording::EndStretch() {
  Graph graph = Graph::EndCapture(*stream_);
  if (graph.defined()) parts_.emplace_back(std::move(graph));
}

Status Recording::Replay() const {
  for (const auto& part : parts_) {
    if (const Graph* graph = std::get_if<Graph>(&part)) {
      graph->Launch(*stream_);
    } else {
      RETURN_IF_ERROR(std::get<HostCall>(part)());
    }
  }
  return OkStatus();
}

int64_t Recording::graphs() const {
  return std::count_if(parts_.begin(), parts_.end(),
                       [](const auto& part) { return std::holds_alternative<Graph>(part); });
}

Status CallOrRecord(Recording* recording, Recording::HostCall call) {
  return recording == nullptr ? call() : recording->Call(std::move(call));
}

}  // namespace trireme
