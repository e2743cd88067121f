#include <gtest/gtest.h>

#include "proto/control.pb.h"
#include "worker/training/control_client.h"

namespace trireme {
namespace {

proto::ToWorker Lease(int64_t budget, uint64_t generation = 1) {
  proto::ToWorker message;
  message.set_generation(generation);
  message.mutable_lease()->set_lease_ms(300);
  message.mutable_lease()->set_budget_step(budget);
  return message;
}

TEST(WorkerControlStateTest, OrdersStandOnlyOnceTheyAreFinal) {
  WorkerControlState state;
  EXPECT_FALSE(state.OrdersBefore(1));
  proto::ToWorker lease = Lease(2);
  lease.mutable_lease()->add_validate_at(0);
  lease.mutable_lease()->add_checkpoint_at(2);
  state.Apply(lease, 0);
  EXPECT_TRUE(state.OrdersBefore(1)->validate);
  EXPECT_FALSE(state.OrdersBefore(1)->checkpoint);
  EXPECT_FALSE(state.OrdersBefore(2)->validate);
  EXPECT_FALSE(state.OrdersBefore(3)) << "a stop after step 2 may still come";
  state.Apply(Lease(3), 0);
  ASSERT_TRUE(state.OrdersBefore(3));
  EXPECT_TRUE(state.OrdersBefore(3)->checkpoint) << "what an earlier lease said still holds";
  EXPECT_FALSE(state.OrdersBefore(3)->stop);
}

TEST(WorkerControlStateTest, AStopMakesTheBudgetsLastStepTheLast) {
  WorkerControlState state;
  state.Apply(Lease(4), 0);
  proto::ToWorker stop = Lease(4);
  stop.mutable_lease()->set_stop(true);
  stop.mutable_lease()->set_stop_after_step(4);
  stop.mutable_lease()->add_checkpoint_at(4);
  state.Apply(stop, 0);
  EXPECT_FALSE(state.OrdersBefore(4)->stop);
  EXPECT_TRUE(state.OrdersBefore(5)->stop);
  EXPECT_TRUE(state.OrdersBefore(5)->checkpoint);
}

TEST(WorkerControlStateTest, LeasesRunOutAndOldGenerationsHaveNoSay) {
  WorkerControlState state;
  state.Apply(Lease(2, 5), 1'000'000);
  EXPECT_TRUE(state.HasLease(1'299'999));
  EXPECT_FALSE(state.HasLease(1'300'000));
  state.Apply(Lease(9, 4), 2'000'000);
  EXPECT_EQ(state.budget_step(), 2);
  EXPECT_FALSE(state.HasLease(2'000'001));
}

TEST(WorkerControlStateTest, TheFirstEndStands) {
  WorkerControlState state;
  proto::ToWorker abort;
  abort.set_generation(1);
  abort.mutable_abort()->set_exit_code(5);
  abort.mutable_abort()->set_reason("lost rank 2");
  state.Apply(abort, 0);
  state.Disconnected("closed by the peer");
  EXPECT_TRUE(state.aborted());
  EXPECT_EQ(ExitCode(*state.end()), 5);
  EXPECT_EQ(state.end()->message(), "lost rank 2");

  WorkerControlState stopped;
  proto::ToWorker stop;
  stop.mutable_stop()->set_exit_code(75);
  stopped.Apply(stop, 0);
  EXPECT_FALSE(stopped.aborted());
  EXPECT_EQ(ExitCode(*stopped.end()), 75);
}

TEST(WorkerControlStateTest, CheckpointsAreSettledInOrder) {
  WorkerControlState state;
  EXPECT_FALSE(state.CheckpointOutcome(2));
  proto::ToWorker message;
  message.mutable_checkpoint_committed()->set_step(2);
  message.mutable_checkpoint_committed()->set_error("disk full");
  state.Apply(message, 0);
  EXPECT_EQ(state.CheckpointOutcome(2)->message(), "disk full");
  EXPECT_FALSE(state.CheckpointOutcome(4));
}

}  // namespace
}  // namespace trireme
