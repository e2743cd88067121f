#include <cstdint>
#include <limits>

#include "cluster/device/cuda_device.h"
#include "cluster/device/cuda_error.cuh"

namespace trireme::cuda {
namespace {

cudaStream_t AsStream(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t AsEvent(void* event) { return static_cast<cudaEvent_t>(event); }

// What cudaSetDevice was last told on this thread; libraries put it back when they change it.
thread_local int current_gpu = -1;

// Scratch memory comes from the device's pool, which by default gives everything back to the driver
// whenever the host waits: the next step would map it again.
void KeepPool(int gpu) {
  cudaMemPool_t pool;
  Check(cudaDeviceGetDefaultMemPool(&pool, gpu), gpu, "asking for the memory pool");
  uint64_t all = std::numeric_limits<uint64_t>::max();
  Check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), gpu,
        "setting up the memory pool");
}

}  // namespace

void MakeCurrent(int gpu) {
  if (gpu == current_gpu) return;
  int count = 0;
  Check(cudaGetDeviceCount(&count), gpu, "looking for GPUs");
  CHECK(0 <= gpu && gpu < count) << "GPU " << gpu << " is wanted, and " << count << " are visible";
  Check(cudaSetDevice(gpu), gpu, "choosing the GPU");
  current_gpu = gpu;
}

int CurrentGpu() {
  if (current_gpu < 0) MakeCurrent(0);
  return current_gpu;
}

void* CreateStream(int gpu, StreamPriority priority) {
  MakeCurrent(gpu);
  KeepPool(gpu);
  int least = 0, greatest = 0;
  Check(cudaDeviceGetStreamPriorityRange(&least, &greatest), gpu, "asking for priorities");
  cudaStream_t stream;
  // Never behind the legacy stream, which would tie side streams together.
  Check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking,
                                     priority == StreamPriority::kFirst ? greatest : least),
        gpu, "making a stream");
  return stream;
}

void DestroyStream(void* stream) { cudaStreamDestroy(AsStream(stream)); }

void SynchronizeStream(int gpu, void* stream, const OperationLog& log) {
  MakeCurrent(gpu);
  Check(cudaStreamSynchronize(AsStream(stream)), gpu, log);
}

bool IsCapturing(void* stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(AsStream(stream), &status) == cudaSuccess &&
         status != cudaStreamCaptureStatusNone;
}

void CopyAsync(int gpu, void* stream, void* target, const void* source, int64_t bytes,
               const OperationLog& log) {
  MakeCurrent(gpu);
  Check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, AsStream(stream)), gpu, log);
}

void FillAsync(int gpu, void* stream, void* target, int byte, int64_t bytes,
               const OperationLog& log) {
  MakeCurrent(gpu);
  Check(cudaMemsetAsync(target, byte, bytes, AsStream(stream)), gpu, log);
}

void* RecordEvent(int gpu, void* stream, bool timed, const OperationLog& log) {
  MakeCurrent(gpu);
  cudaEvent_t event;
  const unsigned flags = timed ? cudaEventDefault : cudaEventDisableTiming;
  Check(cudaEventCreateWithFlags(&event, flags), gpu, log);
  Check(cudaEventRecord(event, AsStream(stream)), gpu, log);
  return event;
}

void DestroyEvent(void* event) { cudaEventDestroy(AsEvent(event)); }

void WaitForEvent(int gpu, void* stream, void* event, const OperationLog& log) {
  MakeCurrent(gpu);
  Check(cudaStreamWaitEvent(AsStream(stream), AsEvent(event), 0), gpu, log);
}

void SynchronizeEvent(int gpu, void* event, const OperationLog& log) {
  Check(cudaEventSynchronize(AsEvent(event)), gpu, log);
}

double MillisecondsBetween(void* first, void* second) {
  float ms = 0;
  Check(cudaEventElapsedTime(&ms, AsEvent(first), AsEvent(second)), CurrentGpu(), "timing");
  return ms;
}

void BeginCapture(int gpu, void* stream, const OperationLog& log) {
  MakeCurrent(gpu);
  // Of this thread alone: another rank in the process may allocate meanwhile.
  Check(cudaStreamBeginCapture(AsStream(stream), cudaStreamCaptureModeThreadLocal), gpu, log);
}

void* EndCapture(int gpu, void* stream, const OperationLog& log) {
  cudaGraph_t graph;
  Check(cudaStreamEndCapture(AsStream(stream), &graph), gpu, log);
  size_t nodes = 0;
  Check(cudaGraphGetNodes(graph, nullptr, &nodes), gpu, log);
  cudaGraphExec_t exec = nullptr;
  if (nodes > 0) {
    Check(cudaGraphInstantiate(&exec, graph, 0), gpu, log);
    // Now, and not with the first launch: by then kernels of a group may wait for one another.
    Check(cudaGraphUpload(exec, AsStream(stream)), gpu, log);
  }
  cudaGraphDestroy(graph);
  if (exec == nullptr) return nullptr;
  // The recording has scratch memory of its own; what the same steps took before goes back.
  cudaMemPool_t pool;
  Check(cudaDeviceGetDefaultMemPool(&pool, gpu), gpu, "asking for the memory pool");
  Check(cudaMemPoolTrimTo(pool, 0), gpu, "giving memory back");
  return exec;
}

void LaunchGraph(int gpu, void* stream, void* graph, const OperationLog& log) {
  MakeCurrent(gpu);
  Check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), AsStream(stream)), gpu, log);
}

void DestroyGraph(void* graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

}  // namespace trireme::cuda
