#include "cluster/device/no_cuda.h"

#include "cluster/device/cuda_device.h"

namespace trireme::cuda {

void MakeCurrent(int) { NoCuda("a thread"); }
int CurrentGpu() { NoCuda("memory"); }

void* CreateStream(int, StreamPriority) { NoCuda("a stream"); }
void DestroyStream(void*) {}
void SynchronizeStream(int, void*, const OperationLog&) {}
bool IsCapturing(void*) { return false; }
void CopyAsync(int, void*, void*, const void*, int64_t, const OperationLog&) { NoCuda("Copy"); }
void FillAsync(int, void*, void*, int, int64_t, const OperationLog&) { NoCuda("Fill"); }

void* RecordEvent(int, void*, bool, const OperationLog&) { NoCuda("an event"); }
void DestroyEvent(void*) {}
void WaitForEvent(int, void*, void*, const OperationLog&) { NoCuda("an event"); }
void SynchronizeEvent(int, void*, const OperationLog&) { NoCuda("an event"); }
bool EventReached(int, void*, const OperationLog&) { NoCuda("an event"); }
double MillisecondsBetween(void*, void*) { NoCuda("an event"); }

void* AllocateMemory(int, int64_t) { NoCuda("memory"); }
void FreeMemory(void*) {}
void* AllocatePinned(int64_t) { NoCuda("pinned memory"); }
void FreePinned(void*) {}

void BeginCapture(int, void*, const OperationLog&) { NoCuda("a graph"); }
int64_t OperationBytesMax(int) { NoCuda("memory of operations"); }
void* EndCapture(int, void*, const OperationLog&) { NoCuda("a graph"); }
void LaunchGraph(int, void*, void*, const OperationLog&) { NoCuda("a graph"); }
void DestroyGraph(void*) {}

Result<GpuVersions> Versions() {
  return NotBuiltError("this build has no CUDA (configure with -DTRIREME_CUDA=ON)");
}
Result<std::vector<GpuInfo>> Gpus() { return Versions().status(); }
bool CanAccessPeer(int, int) { return false; }

void AddInPlace(Stream&, float*, const float*, int64_t) { NoCuda("AddInPlace"); }
void CastToBFloat16(Stream&, BFloat16*, const float*, int64_t) { NoCuda("CastToBFloat16"); }
void CastToFloat(Stream&, float*, const BFloat16*, int64_t) { NoCuda("CastToFloat"); }
void SumInOrder(Stream&, DType, const SumOrder&, std::span<const void* const>, void*, int64_t) {
  NoCuda("SumInOrder");
}

}  // namespace trireme::cuda
