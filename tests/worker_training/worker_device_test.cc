#include "worker/training/worker_device.h"

#include <gtest/gtest.h>

#include "proto/control.pb.h"

namespace trireme {
namespace {

void AddMember(proto::Plan* plan, int place, const std::string& host, int64_t pid,
               const std::string& gpu) {
  proto::Member* member = plan->add_members();
  member->set_place(place);
  member->set_host(host);
  member->set_pid(pid);
  member->set_gpu(gpu);
  member->set_nccl("2.28.9");
}

// What a process has taken of a device is told in equal parts by those of its workers that use it.
TEST(WorkerDeviceTest, WorkersShareADeviceWithThoseOfTheirProcess) {
  proto::Plan plan;
  AddMember(&plan, 0, "a", 7, "0000:01:00.0");
  AddMember(&plan, 1, "a", 7, "0000:02:00.0");  // a thread with a GPU of its own
  AddMember(&plan, 2, "a", 7, "0000:02:00.0");  // and one that shares it
  AddMember(&plan, 3, "a", 8, "0000:02:00.0");  // another process there
  AddMember(&plan, 4, "b", 7, "0000:02:00.0");  // another host's
  AddMember(&plan, 5, "b", 9, "");              // on a CPU
  AddMember(&plan, 6, "b", 9, "");
  AddMember(&plan, -1, "b", 9, "");  // parked
  const int expected[] = {1, 2, 2, 1, 1, 2, 2};
  for (int rank = 0; rank < 7; ++rank) EXPECT_EQ(WorkersOnDevice(plan, rank), expected[rank]);
  EXPECT_FALSE(EachHasItsGpu(plan));
}

TEST(WorkerDeviceTest, NcclNeedsAGpuAWorkerAndOneVersion) {
  proto::Plan plan;
  AddMember(&plan, 0, "a", 7, "0000:01:00.0");
  AddMember(&plan, 1, "a", 7, "0000:02:00.0");
  AddMember(&plan, 2, "b", 9, "0000:01:00.0");
  EXPECT_TRUE(EachHasItsGpu(plan));
  plan.mutable_members(2)->set_nccl("2.27.3");
  EXPECT_FALSE(EachHasItsGpu(plan));
}

}  // namespace
}  // namespace trireme
