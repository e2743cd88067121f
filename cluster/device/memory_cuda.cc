#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cluster/device/cuda_device.h"
#include "cluster/device/cuda_error.cuh"

namespace trireme::cuda {

void* AllocateMemory(int gpu, int64_t bytes) {
  MakeCurrent(gpu);
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    LOG(FATAL) << "GPU " << gpu << " is out of memory: " << bytes << " bytes wanted, " << free_bytes
               << " of " << total_bytes << " free";
  }
  Check(error, gpu, "allocating memory");
  Check(cudaMemset(memory, 0, bytes), gpu, "zeroing memory");
  // Streams of ours do not wait for the legacy one, where the zeros are written.
  Check(cudaStreamSynchronize(nullptr), gpu, "zeroing memory");
  return memory;
}

int64_t OperationBytesMax(int gpu) {
  cudaMemPool_t pool;
  uint64_t eager = 0, recorded = 0;
  Check(cudaDeviceGetDefaultMemPool(&pool, gpu), gpu, "asking for the memory pool");
  Check(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemHigh, &eager), gpu,
        "asking for the pool's use");
  Check(cudaDeviceGetGraphMemAttribute(gpu, cudaGraphMemAttrUsedMemHigh, &recorded), gpu,
        "asking for the graphs' memory");
  return static_cast<int64_t>(std::max(eager, recorded));
}

// Errors are left to the next call that can tell them: the process may be on its way out.
void FreeMemory(void* memory) { cudaFree(memory); }

void* AllocatePinned(int64_t bytes) {
  void* memory = nullptr;
  Check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), CurrentGpu(),
        "allocating pinned host memory");
  std::memset(memory, 0, bytes);
  return memory;
}

void FreePinned(void* memory) { cudaFreeHost(memory); }

}  // namespace trireme::cuda
