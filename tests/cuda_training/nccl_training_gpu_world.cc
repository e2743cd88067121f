// The real NCCL, ranks on one GPU.
#include <cstdlib>
#include <vector>

#include "cluster/comm/nccl_group.h"
#include "cluster/device/buffer.h"
#include "cluster/device/ordered_sum.h"
#include "tests/cuda_training/nccl_training_world.h"
#include "tests/harness/nccl_on_one_gpu.h"

namespace trireme {
namespace {

// What is loaded, or measured, when it is first launched may wait for all kernels that run, and
// those of another rank for this one's message. A rehearsal loads most; here is what it leaves out.
bool LoadAll() {
  setenv("TRIREME_MATMUL_TUNE", "0", 1);
  NcclOfRank(0);
  Stream stream(Gpu{0});
  const Buffer values(1 << 12, DeviceKind::kCuda);
  const std::vector<const void*> inputs = {values.data(), values.data()};
  const std::vector<uint8_t> additions = {0, 1};
  for (const DType dtype : {DType::kF32, DType::kF64, DType::kI64}) {
    SumInOrder(stream, dtype, SumOrder(additions), inputs, values.data(), 64);
  }
  stream.Synchronize();
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
