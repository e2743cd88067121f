// The fake NCCL on streams of the SIMT backend, a GPU a rank.
#include <cuda_runtime_api.h>
#include <simt/device_memory.h>

#include <optional>

#include "cluster/comm/nccl_communicator.h"
#include "tests/cluster_comm_gpu/nccl_world.h"
#include "tests/cuda_training/nccl_training_world.h"

namespace trireme {
namespace {

constexpr int kGpus = 8;
thread_local std::optional<simt::DeviceAccess> access;

}  // namespace

void SetUpNcclTraining(HarnessOptions* options) {
  simt::SetDeviceCount(kGpus);
  simt::RunStreamsAhead();
  Fake().device(
      nullptr, [] { access.emplace(); }, [] { access.reset(); });
  Fake().enqueue([](void* stream, bool (*over)(void*), void* work) {
    simt::EnqueueWhenOver(static_cast<cudaStream_t>(stream), [=] { return over(work); });
  });
  options->gpu_each = true;
  options->gpu_world = [](int, CommunicatorFactory* host, Stream* stream) {
    auto world = NcclWorld(host, stream);
    CHECK(world.ok()) << world.status().message();
    return std::move(world).value();
  };
}

}  // namespace trireme
