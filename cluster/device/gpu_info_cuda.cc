#include <cstdlib>

#include "cluster/device/cuda_device.h"
#include "cluster/device/cuda_error.cuh"

namespace trireme::cuda {
namespace {

// Before CUDA starts: by default streams share eight queues of the GPU, where one waits behind
// another that it has nothing to do with.
void PrepareEnvironment() {
  static const int done = setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  (void)done;
}

}  // namespace

Result<GpuVersions> Versions() {
  PrepareEnvironment();
  GpuVersions versions{0, 0};
  if (cudaDriverGetVersion(&versions.driver) != cudaSuccess) versions.driver = 0;
  const cudaError_t error = cudaRuntimeGetVersion(&versions.runtime);
  if (error == cudaSuccess) return versions;
  return UnavailableError(StrCat("CUDA: ", cudaGetErrorString(error)));
}

Result<std::vector<GpuInfo>> Gpus() {
  PrepareEnvironment();
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();  // not to be found by whoever looks next
    return UnavailableError(StrCat("no GPU can be used: ", cudaGetErrorString(error)));
  }
  std::vector<GpuInfo> gpus;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    char bus[32] = "";
    Check(cudaGetDeviceProperties(&properties, i), i, "asking for its properties");
    Check(cudaDeviceGetPCIBusId(bus, sizeof(bus), i), i, "asking for its PCI address");
    gpus.push_back({i, properties.name, properties.major, properties.minor,
                    properties.multiProcessorCount, static_cast<int64_t>(properties.totalGlobalMem),
                    bus, -1});
  }
  return gpus;
}

bool CanAccessPeer(int gpu, int peer) {
  int can = 0;
  return gpu != peer && cudaDeviceCanAccessPeer(&can, gpu, peer) == cudaSuccess && can != 0;
}

}  // namespace trireme::cuda
