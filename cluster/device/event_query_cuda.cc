#include "cluster/device/cuda_device.h"
#include "cluster/device/cuda_error.cuh"

namespace trireme::cuda {

bool EventReached(int gpu, void* event, const OperationLog& log) {
  MakeCurrent(gpu);
  const cudaError_t error = cudaEventQuery(static_cast<cudaEvent_t>(event));
  if (error == cudaErrorNotReady) return false;
  Check(error, gpu, log);
  return true;
}

}  // namespace trireme::cuda
