// The conformance suite's world of threads.
#include <atomic>
#include <numeric>
#include <thread>

#include "tests/cluster_comm/conformance.h"

namespace trireme {

void OnEveryRank(int ranks, const std::function<void(TestRank&)>& body) {
  auto factories = ThreadWorld(ranks);
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), 0);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      TestRank view{*factories[rank], members, rank, 1};
      body(view);
    });
  }
  for (auto& thread : threads) thread.join();
}

// 16: AllGather by recursive doubling. 17: too many for small sums in one exchange.
std::vector<int> WorldSizes() { return {1, 2, 3, 4, 5, 16, 17}; }

}  // namespace trireme
