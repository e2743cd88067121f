// Stream capture and graphs of the fake CUDA runtime. A graph runs its work in the order of the
// calls that were captured.
#include <simt/device_memory.h>
#include <simt/fake_runtime.h>

#include <mutex>
#include <utility>

using namespace trireme::simt;  // NOLINT: the C interface of the names there

struct CUgraph_st {
  std::shared_ptr<GraphState> state;
};
struct CUgraphExec_st {
  std::shared_ptr<GraphState> state;
};

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr || handle == nullptr) return Fail(cudaErrorStreamCaptureUnsupported);
  const std::lock_guard lock(Queues::Get().mutex);
  if (stream->capture != nullptr) return Fail(cudaErrorStreamCaptureUnsupported);
  stream->capture = std::make_shared<GraphState>();
  stream->capture->origin = stream.get();
  stream->capture->members[stream.get()];
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  *graph = nullptr;
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(Queues::Get().mutex);
  if (stream->capture == nullptr || stream->capture->origin != stream.get()) {
    return Fail(cudaErrorInvalidValue);
  }
  const std::shared_ptr<GraphState> state = stream->capture;
  bool joined = true;
  for (const auto& [member, work] : state->members) {
    member->capture = nullptr;
    // `joined` counts one more than the work that was waited for, so that a stream that did nothing
    // must be waited for as well.
    joined &= member == state->origin || work.joined == work.works + 1;
  }
  if (state->invalid) return Fail(cudaErrorStreamCaptureInvalidated);
  if (!joined) return Fail(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{state};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(Queues::Get().mutex);
  *status = stream->capture == nullptr ? cudaStreamCaptureStatusNone
            : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                       : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

// Their number alone.
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  if (nodes != nullptr) return Fail(cudaErrorInvalidValue);
  *count = graph->state->works.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->state};
  return cudaSuccess;
}

// Nothing has to be carried here; but it is a work of the stream.
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t handle) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  const std::lock_guard lock(Queues::Get().mutex);
  return stream->capture == nullptr ? cudaSuccess : Fail(cudaErrorStreamCaptureUnsupported);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t handle) {
  const auto stream = Queues::Get().Find(handle);
  if (stream == nullptr) return Fail(cudaErrorInvalidResourceHandle);
  Queues::Get().Push(stream, [state = exec->state] {
    for (const auto& work : state->works) work();
  });
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
