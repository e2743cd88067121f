// The conformance suite's world of MPI processes: run by mpirun, every rank runs every test.
//
// With the argument "--rank0_outside", rank 0 is in no group, as a coordinator's process is.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <numeric>

#include "tests/cluster_comm/conformance.h"

namespace trireme {
namespace {

CommunicatorFactory* world = nullptr;
int first_member = 0;
uint64_t generation = 0;

// Only one rank reports what passed; the others report failures alone.
class QuietPrinter final : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    fprintf(stderr, "world rank %d: %s:%d: %s\n", world->world_rank(), result.file_name(),
            result.line_number(), result.message());
  }
};

}  // namespace

void OnEveryRank(int ranks, const std::function<void(TestRank&)>& body) {
  generation += 10;  // a test may begin generations of its own
  std::vector<int> members(ranks);
  std::iota(members.begin(), members.end(), first_member);
  const int rank = world->world_rank() - first_member;
  if (rank < 0) return;
  TestRank view{*world, members, rank, generation};
  body(view);
}

std::vector<int> WorldSizes() { return {DetectLaunch().size - first_member}; }

}  // namespace trireme

int main(int argc, char** argv) {
  alarm(100);
  if (argc > 1 && std::strcmp(argv[1], "--rank0_outside") == 0) trireme::first_member = 1;
  testing::InitGoogleTest(&argc, argv);
  auto factory = trireme::MpiWorld();
  if (!factory.ok()) {
    fprintf(stderr, "%s\n", factory.status().message().c_str());
    return 1;
  }
  trireme::world = factory->get();
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  if (trireme::world->world_rank() != trireme::first_member) {
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new trireme::QuietPrinter);
  }
  const int result = RUN_ALL_TESTS();
  return result;
}
