#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/gpu_libraries.h"

namespace trireme::cuda {

bool FusedAttentionForward(Stream&, const Heads&, const Heads&, const Heads&, float, const Tensor&,
                           const Heads&, const Tensor&) {
  return false;
}

bool FusedAttentionBackward(Stream&, const Heads&, const Heads&, const Heads&, const Heads&,
                            const Heads&, const Tensor&, float, const Tensor&, const Heads&,
                            const Heads&, const Heads&) {
  return false;
}

}  // namespace trireme::cuda

namespace trireme {

Result<std::string> GpuAttentionLibrary() { return NotBuiltError("this build has no cuDNN"); }

}  // namespace trireme
