// A rank dies by SIGKILL: how its peers end the operation, and go on without it.
//
//   mpirun --enable-recovery -n 3 cluster_comm_mpi_lost_rank before|during
//
// "before": the rank dies before it enters the collective, so that nothing of it is ever heard.
// "during": it dies with a large one in flight. The survivors' waits must end with an error that
// names it; they then revoke, abandon, begin a new generation without it and leave by _exit.
// Rank 0 prints the verdict, for mpirun's exit status says nothing after a loss.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "cluster/comm/communicator.h"

namespace trireme {
namespace {

constexpr int kVictim = 1;
constexpr Micros kPatience = 60'000'000;

[[noreturn]] void Fail(const std::string& what) {
  fprintf(stderr, "FAILED: %s\n", what.c_str());
  _exit(1);
}

void Require(const Status& status) {
  if (!status.ok()) Fail(status.message());
}

void LoseTheVictim(CommunicatorFactory& world, bool during) {
  auto comm = world.Create("data", {0, 1, 2}, 3, 1);
  auto values = std::make_shared<std::vector<float>>(during ? 16 << 20 : 1000, 1.0f);
  const BufferRef buffer{values->data(), static_cast<int64_t>(values->size()), DType::kF32};
  Require(comm->Barrier().Wait(kPatience));
  if (world.world_rank() == kVictim) {
    Work entered;
    if (during) entered = comm->AllReduce(buffer);
    raise(SIGKILL);
  }
  Work work = comm->AllReduce(buffer);
  const Status status = work.Wait(500'000);
  if (status.ok()) Fail("the sum was made without the dead rank");
  const bool deadline = status.code() == StatusCode::kDeadlineExceeded;
  if (!deadline && status.code() != StatusCode::kUnavailable) Fail(status.message());
  if (!deadline && !during) Fail("not a deadline: " + status.message());
  const std::string named = !deadline ? "world rank 1 is lost"
                            : during  ? "1"
                                      : "nothing heard from rank 1 (of the world: 1)";
  if (status.message().find(named) == std::string::npos) {
    Fail("the dead rank is not named: " + status.message());
  }
  if (world.world_rank() == 0) printf("survivor: %s\n", status.message().c_str());
  comm->Revoke("world rank 1 was lost");
  work.Abandon(values);
  if (comm->Barrier().Wait(0).code() != StatusCode::kUnavailable) Fail("not revoked");
}

void GoOnWithoutIt(CommunicatorFactory& world) {
  auto comm = world.Create("data", {0, 2}, 3, 2);
  for (int64_t count : {100, 3'000'000}) {
    std::vector<float> values(count, 1.5f);
    Require(comm->AllReduce({values.data(), count, DType::kF32}).Wait(kPatience));
    if (values != std::vector<float>(count, 3.0f)) Fail("a wrong sum after the loss");
  }
  Require(comm->Barrier().Wait(kPatience));
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  alarm(100);
  auto world = trireme::MpiWorld();
  trireme::Require(world.status());
  trireme::LoseTheVictim(**world, argc > 1 && std::string(argv[1]) == "during");
  trireme::GoOnWithoutIt(**world);
  if ((*world)->world_rank() == 0) printf("the survivors went on without the lost rank\n");
  fflush(stdout);
  _exit(0);  // MPI_Finalize would wait for the dead
}
