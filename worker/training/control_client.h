// The worker's end of the control plane: joins the run, keeps its lease, learns what to do next.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "cluster/base/clock.h"
#include "cluster/base/status.h"
#include "cluster/rpc/endpoint.h"

namespace trireme {

namespace proto {
class ChunkReport;
class Join;
class Plan;
class StepReport;
class ToWorker;
class ValidationReport;
}  // namespace proto

// What to do now that a step is done, in this order.
struct StepOrders {
  bool validate = false;    // with the state as it stands
  bool checkpoint = false;  // of the state as it stands
  bool stop = false;        // then call Finish(); else run the next step
};

// What the worker has been told. Pure: no clock, no thread.
class WorkerControlState {
 public:
  void Apply(const proto::ToWorker& message, Micros now);
  // The coordinator is out of reach.
  void Disconnected(const std::string& reason);

  // The orders that stand before `step` is run, so after step - 1; nullopt while they are not
  // final.
  std::optional<StepOrders> OrdersBefore(int64_t step) const;
  // Why the run ended for this worker: ok (all done), kStopped (exit 75), or what went wrong.
  const std::optional<Status>& end() const { return end_; }
  bool aborted() const { return end_ && !end_->ok() && end_->code() != StatusCode::kStopped; }
  // Without a lease a worker may compute but makes no durable write.
  bool HasLease(Micros now) const { return now < lease_until_; }
  uint64_t generation() const { return generation_; }
  int64_t budget_step() const { return budget_; }
  // kOk once the manifest of `step` is in place; nullopt while that is open.
  std::optional<Status> CheckpointOutcome(int64_t step) const;

 private:
  uint64_t generation_ = 0;
  int64_t budget_ = 0;
  std::optional<int64_t> stop_after_;
  std::set<int64_t> checkpoint_at_;
  std::set<int64_t> validate_at_;
  int64_t checkpoint_settled_ = -1;  // the newest
  Status checkpoint_outcome_;
  Micros lease_until_ = 0;
  std::optional<Status> end_;
};

struct ControlClientOptions {
  Endpoint coordinator;
  int64_t connect_ms = 10'000;
  int64_t plan_ms = 180'000;  // for all the others to join
  // Called once from the client's thread when the run is aborted or the coordinator is lost; the
  // worker must stop what it does and may be blocked in. Not called for an ordinary end.
  std::function<void(const Status& why)> on_abort;
};

// All methods may be called from any thread, AwaitBudget, AwaitCheckpoint and Finish not from
// on_abort. One object is one worker; its destructor (not on the client's thread) leaves.
class ControlClient {
 public:
  // Joins and blocks until the plan is there. Errors: kUnavailable (no coordinator, another secret,
  // refused, not enough workers), kDeadlineExceeded, or what the coordinator says.
  static Result<std::unique_ptr<ControlClient>> Connect(const ControlClientOptions& options,
                                                        const proto::Join& join);
  ~ControlClient();

  // plan().place() is -1 for a parked spare: it calls Finish() at once and waits there.
  const proto::Plan& plan() const;
  uint64_t generation() const;

  // To be called before each step (first with start_step + 1, last with the step after the last
  // one). Blocks until the step is granted, or the run stops before it. An error ends the run.
  Result<StepOrders> AwaitBudget(int64_t step);

  // Names where this worker is; heartbeats carry it. "data", "pipeline", "reduce" and "update",
  // with what may follow a dot, are phases of a step, whose durations the coordinator learns; names
  // that start with "wait" may last for ever. Cheap. Also a named fault point
  // (cluster/base/fault.h) of the step that AwaitBudget granted last.
  void SetPhase(std::string_view phase, int64_t microbatch = 0);
  // A fault point that is no phase. The action `silent` is this client's own: it sends no more
  // heartbeats and returns once its lease has lapsed.
  void ReachFaultPoint(int64_t step, std::string_view point);
  // Whether the planned fault is a bit of this worker's state after this step.
  bool FlipsABit(int64_t step) const;

  // Phase times are filled in when the report has none. Reports are queued, in order; a lost
  // connection is told by the next AwaitBudget.
  void ReportStep(proto::StepReport report);
  void ReportValidation(const proto::ValidationReport& report);
  void ReportChunks(const proto::ChunkReport& report);
  // Blocks until the manifest of that checkpoint is in place; the error says why it never will be.
  Status AwaitCheckpoint(int64_t step);
  // Asks for a stop of the whole run: a signal came to this process. Safe from threads, not from a
  // signal handler.
  void RequestStop(const std::string& reason);
  bool HasLease() const;
  // Blocks until this worker has a lease, to be called before each durable write: a coordinator
  // that is late answers the next heartbeat. An error says how the run ended: then nothing is
  // written.
  Status AwaitLease();

  // Blocks until the coordinator has ended the run and says how: ok, kStopped, or an error.
  Status Finish();
  // This worker cannot go on: tells the coordinator why and leaves.
  void Fail(const Status& why);

 private:
  class Impl;
  explicit ControlClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trireme
