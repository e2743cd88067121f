// The conformance suite's world of ranks with a GPU each, which is the SIMT backend's: by pinned
// memory, or (SIMT_WORLD_OF_NCCL) by the fake NCCL.
#include <cuda_runtime_api.h>
#include <simt/device_memory.h>

#include <numeric>
#include <optional>
#include <thread>

#include "cluster/comm/staged_communicator.h"
#include "tests/cluster_comm_gpu/gpu_world.h"
#include "tests/cluster_comm_gpu/mirrored.h"
#include "tests/cluster_comm_gpu/nccl_world.h"

namespace trireme {
namespace {

thread_local std::optional<simt::DeviceAccess> access;

std::unique_ptr<CommunicatorFactory> MakeFactory(CommunicatorFactory* host, Stream* compute) {
#if SIMT_WORLD_OF_NCCL
  Fake().device(
      nullptr, [] { access.emplace(); }, [] { access.reset(); });
  Fake().enqueue([](void* stream, bool (*over)(void*), void* work) {
    simt::EnqueueWhenOver(static_cast<cudaStream_t>(stream), [=] { return over(work); });
  });
  auto world = NcclWorld(host, compute);
  CHECK(world.ok()) << world.status().message();
  return std::move(world).value();
#else
  return StagedWorld(host, compute);
#endif
}

}  // namespace

void OnEveryGpuRank(int ranks, const std::function<void(CommunicatorFactory&, Stream&)>& body) {
  auto hosts = ThreadWorld(ranks);
  simt::SetDeviceCount(ranks);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Stream compute(Gpu{rank});
      auto factory = MakeFactory(hosts[rank].get(), &compute);
      body(*factory, compute);
    });
  }
  for (auto& thread : threads) thread.join();
}

void OnEveryRank(int ranks, const std::function<void(TestRank&)>& body) {
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  OnEveryGpuRank(ranks, [&](CommunicatorFactory& inner, Stream& compute) {
    MirroredFactory factory(&inner, &compute);
    TestRank view{factory, members, inner.world_rank(), 1};
    body(view);
  });
}

std::vector<int> WorldSizes() { return {1, 2, 3}; }

}  // namespace trireme
