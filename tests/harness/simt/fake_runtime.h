// What the parts of the fake CUDA runtime share.
#pragma once

#include <cuda_runtime_api.h>
#include <simt/stream_queue.h>

namespace trireme::simt {

// Remembers the error for cudaGetLastError and returns it.
cudaError_t Fail(cudaError_t error);

}  // namespace trireme::simt
