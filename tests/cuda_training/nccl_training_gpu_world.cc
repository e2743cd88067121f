// The real NCCL, ranks on one GPU.
#include <cstdlib>

#include "cluster/comm/nccl_group.h"
#include "cluster/device/ordered_sum.h"
#include "tests/cuda_training/nccl_training_world.h"
#include "tests/harness/nccl_on_one_gpu.h"

namespace trireme {
namespace {

// What is loaded, or measured, when it is first launched may wait for all kernels that run, and
// those of another rank for this one's message: here ranks share a GPU, and some have begun to
// train while others still rehearse.
bool LoadAll() {
  setenv("CUDA_MODULE_LOADING", "EAGER", 1);  // before the GPU is first used
  setenv("TRIREME_MATMUL_TUNE", "0", 1);
  NcclOfRank(0);
  Stream stream(Gpu{0});
  LoadSumKernels(stream);
  return true;
}

}  // namespace

void SetUpNcclTraining(HarnessOptions* options) {
  static const bool loaded = LoadAll();
  CHECK(loaded);
  options->gpu_world = [](int rank, CommunicatorFactory* host, Stream* stream) {
    return MakeNcclFactory(NcclOfRank(rank), host, stream, {});
  };
}

}  // namespace trireme
