// The conformance suite's world of ranks with a GPU each, which is the SIMT backend's: by pinned
// memory, or (SIMT_WORLD_OF_NCCL) by the fake NCCL.
#include <cuda_runtime_api.h>
#include <simt/device_memory.h>

#include <numeric>
#include <optional>
#include <thread>

#include "cluster/comm/staged_communicator.h"
#include "tests/cluster_comm_gpu/mirrored.h"
#include "tests/cluster_comm_gpu/nccl_world.h"

namespace trireme {
namespace {

thread_local std::optional<simt::DeviceAccess> access;

std::unique_ptr<CommunicatorFactory> MakeFactory(CommunicatorFactory* host, Stream* compute) {
#if SIMT_WORLD_OF_NCCL
  Fake().device([](void* stream) { cudaStreamSynchronize(static_cast<cudaStream_t>(stream)); },
                [] { access.emplace(); }, [] { access.reset(); });
  auto world = NcclWorld(host, compute);
  CHECK(world.ok()) << world.status().message();
  return std::move(world).value();
#else
  return StagedWorld(host, compute);
#endif
}

}  // namespace

void OnEveryRank(int ranks, const std::function<void(TestRank&)>& body) {
  auto hosts = ThreadWorld(ranks);
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Stream compute(Gpu{0});
      auto inner = MakeFactory(hosts[rank].get(), &compute);
      MirroredFactory factory(inner.get(), &compute);
      TestRank view{factory, members, rank, 1};
      body(view);
    });
  }
  for (auto& thread : threads) thread.join();
}

std::vector<int> WorldSizes() { return {1, 2, 3}; }

}  // namespace trireme
