// The conformance suite's world of ranks whose buffers travel by host memory.
#include <numeric>
#include <thread>

#include "cluster/comm/staged_communicator.h"
#include "tests/cluster_comm/conformance.h"

namespace trireme {

void OnEveryRank(int ranks, const std::function<void(TestRank&)>& body) {
  auto hosts = ThreadWorld(ranks);
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Stream compute(1);
      auto factory = StagedWorld(hosts[rank].get(), &compute);
      TestRank view{*factory, members, rank, 1};
      body(view);
    });
  }
  for (auto& thread : threads) thread.join();
}

std::vector<int> WorldSizes() { return {1, 2, 3, 4}; }

}  // namespace trireme
