#include "tests/cluster_comm_gpu/nccl_world.h"

#include <numeric>
#include <thread>

namespace trireme {

void OnEveryNcclRank(int ranks, const NcclOptions& options,
                     const std::function<void(TestRank&)>& body) {
  auto hosts = ThreadWorld(ranks);
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Stream compute(1);
      auto factory = MakeNcclFactory(Fake().api, hosts[rank].get(), &compute, options);
      TestRank view{*factory, members, rank, 1};
      body(view);
    });
  }
  for (auto& thread : threads) thread.join();
}

void OnEveryRank(int ranks, const std::function<void(TestRank&)>& body) {
  OnEveryNcclRank(ranks, {}, body);
}

std::vector<int> WorldSizes() { return {1, 2, 3, 4}; }

}  // namespace trireme
