// What the device layer asks of a GPU. Each backend that a program can be linked with
// (cmake/TriremeCuda.cmake) defines all of it; nobody outside this folder calls the first part.
//
// `stream` is a cudaStream_t, `event` a cudaEvent_t, `graph` a cudaGraphExec_t. An error of CUDA
// ends the process with one line: the GPU, what CUDA says, and the operations the log names.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/device/gpu_info.h"
#include "cluster/device/operation_log.h"
#include "cluster/device/ordered_sum.h"
#include "cluster/device/stream.h"

namespace trireme::cuda {

// Makes the GPU the one of the calling thread. Cheap when it is so already.
void MakeCurrent(int gpu);
// The calling thread's GPU.
int CurrentGpu();

void* CreateStream(int gpu, StreamPriority priority);
void DestroyStream(void* stream);
void SynchronizeStream(int gpu, void* stream, const OperationLog& log);
// Whether work of the stream is being recorded into a graph.
bool IsCapturing(void* stream);
void CopyAsync(int gpu, void* stream, void* target, const void* source, int64_t bytes,
               const OperationLog& log);
void FillAsync(int gpu, void* stream, void* target, int byte, int64_t bytes,
               const OperationLog& log);

// Records an event; a timed one can be measured against another timed one.
void* RecordEvent(int gpu, void* stream, bool timed, const OperationLog& log);
void DestroyEvent(void* event);
void WaitForEvent(int gpu, void* stream, void* event, const OperationLog& log);
void SynchronizeEvent(int gpu, void* event, const OperationLog& log);
bool EventReached(int gpu, void* event, const OperationLog& log);
double MillisecondsBetween(void* first, void* second);

// Zeroed memory of the GPU, 256-byte aligned.
void* AllocateMemory(int gpu, int64_t bytes);
void FreeMemory(void* memory);
// The most that operations have taken at one time in the order of a stream, in recorded graphs too.
int64_t OperationBytesMax(int gpu);
// Zeroed host memory that every GPU copies to and from without staging.
void* AllocatePinned(int64_t bytes);
void FreePinned(void* memory);

// Between the two, what the thread enqueues on the stream (and on streams that wait for it) is
// recorded and not run. EndCapture is null where nothing was.
void BeginCapture(int gpu, void* stream, const OperationLog& log);
void* EndCapture(int gpu, void* stream, const OperationLog& log);
void LaunchGraph(int gpu, void* stream, void* graph, const OperationLog& log);
void DestroyGraph(void* graph);

Result<GpuVersions> Versions();
Result<std::vector<GpuInfo>> Gpus();
bool CanAccessPeer(int gpu, int peer);

// elementwise.h
void AddInPlace(Stream& stream, float* target, const float* source, int64_t n);
void CastToBFloat16(Stream& stream, BFloat16* target, const float* source, int64_t n);
void CastToFloat(Stream& stream, float* target, const BFloat16* source, int64_t n);

// ordered_sum.h
void SumInOrder(Stream& stream, DType dtype, const SumOrder& order,
                std::span<const void* const> inputs, void* out, int64_t count);

}  // namespace trireme::cuda
