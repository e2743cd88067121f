// Errors of CUDA end the process with one line. For the sources of the GPU backend alone.
#pragma once

#include <cuda_runtime_api.h>

#include "cluster/base/status.h"
#include "cluster/device/device_failure.h"
#include "cluster/device/operation_log.h"

namespace trireme::cuda {

// `wanted` says what was asked of CUDA where no operation is to blame.
inline void Check(cudaError_t error, int gpu, const char* wanted) {
  if (error == cudaSuccess) return;
  EndByDeviceFailure(StrCat("GPU ", gpu, ": ", cudaGetErrorString(error), " (", wanted, ")"));
}
// An error that work of the stream may have caused.
inline void Check(cudaError_t error, int gpu, const OperationLog& log) {
  if (error == cudaSuccess) return;
  EndByDeviceFailure(StrCat("GPU ", gpu, ": ", cudaGetErrorString(error), ", ", log.ToString(),
                            " (TRIREME_CUDA_BLOCKING=1 names exactly one)"));
}

}  // namespace trireme::cuda
