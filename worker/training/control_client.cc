#include "worker/training/control_client.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>

#include "cluster/base/fault.h"
#include "cluster/rpc/rpc_client.h"
#include "parallelism/mesh.h"
#include "proto/control.pb.h"

namespace trireme {
namespace {

constexpr uint16_t kEnvelope = 1;
constexpr int64_t kLeaveMs = 2000;

Status StatusOfExitCode(int exit_code, const std::string& reason) {
  switch (exit_code) {
    case 0:
      return OkStatus();
    case 2:
      return InvalidArgumentError(reason);
    case 3:
      return DataLossError(reason);
    case 4:
      return StorageError(reason);
    case 5:
      return UnavailableError(reason);
    case 75:
      return StoppedError(reason);
    default:
      return InternalError(reason);
  }
}

// A bad plan was refused where the run started; on another host it is at least told.
PlannedFault FaultToCommit() {
  Result<PlannedFault> fault = FaultFromEnvironment();
  if (fault.ok()) return std::move(fault).value();
  LOG(ERROR) << fault.status().message();
  return {};
}

// Fills in where the worker of `rank` stands.
void FindPlace(int rank, proto::Plan* plan) {
  plan->set_place(-1);
  for (const proto::Member& member : plan->members()) {
    if (member.rank() == rank) plan->set_place(member.place());
  }
  const Mesh mesh(plan->data(), plan->tensor(), plan->pipeline(), plan->context());
  if (plan->place() < 0 || plan->place() >= mesh.size()) return;
  plan->set_data_index(mesh.Index(plan->place(), Axis::kData));
  plan->set_tensor_index(mesh.Index(plan->place(), Axis::kTensor));
  plan->set_pipeline_index(mesh.Index(plan->place(), Axis::kPipeline));
  plan->set_context_index(mesh.Index(plan->place(), Axis::kContext));
}

// The end of a lease that begins now, of at most a day.
Micros LeaseEnd(Micros now, int64_t lease_ms) {
  return now + std::clamp<int64_t>(lease_ms, 0, 86'400'000) * 1000;
}

}  // namespace

void WorkerControlState::Apply(const proto::ToWorker& message, Micros now) {
  if (message.generation() < generation_ || end_) return;  // an old membership has no say
  generation_ = message.generation();
  if (message.has_plan()) {
    budget_ = message.plan().start_step();
    lease_until_ = LeaseEnd(now, message.plan().lease_ms());
  } else if (message.has_lease()) {
    const proto::Lease& lease = message.lease();
    lease_until_ = LeaseEnd(now, lease.lease_ms());
    budget_ = std::max<int64_t>(budget_, lease.budget_step());
    if (lease.stop()) stop_after_ = lease.stop_after_step();
    checkpoint_at_.insert(lease.checkpoint_at().begin(), lease.checkpoint_at().end());
    validate_at_.insert(lease.validate_at().begin(), lease.validate_at().end());
  } else if (message.has_checkpoint_committed()) {
    checkpoint_settled_ = message.checkpoint_committed().step();
    const std::string& error = message.checkpoint_committed().error();
    checkpoint_outcome_ = error.empty() ? OkStatus() : StorageError(error);
  } else if (message.has_stop()) {
    end_ = StatusOfExitCode(message.stop().exit_code(), message.stop().reason());
  } else if (message.has_abort()) {
    end_ = StatusOfExitCode(std::max(1, message.abort().exit_code()), message.abort().reason());
  }
}

void WorkerControlState::Disconnected(const std::string& reason) {
  if (!end_) end_ = UnavailableError(StrCat("lost the coordinator: ", reason));
  lease_until_ = 0;
}

std::optional<StepOrders> WorkerControlState::OrdersBefore(int64_t step) const {
  const int64_t done = step - 1;
  const bool stop = stop_after_ && *stop_after_ == done;
  if (budget_ < step && !stop) return std::nullopt;
  return StepOrders{validate_at_.count(done) != 0, checkpoint_at_.count(done) != 0, stop};
}

std::optional<Status> WorkerControlState::CheckpointOutcome(int64_t step) const {
  if (checkpoint_settled_ < step) return std::nullopt;
  return checkpoint_settled_ == step ? checkpoint_outcome_ : OkStatus();
}

class ControlClient::Impl {
 public:
  Impl(const ControlClientOptions& options, const proto::Join& join)
      : options_(options), join_(join), fault_(FaultToCommit()) {}

  ~Impl() {
    bool connected;
    {
      const std::lock_guard lock(mutex_);
      left_ = true;
      connected = !disconnected_;
    }
    if (client_ == nullptr) return;
    if (connected) {
      proto::ToCoordinator leave;
      leave.mutable_leave()->set_reason(leave_reason_);
      leave.mutable_leave()->set_exit_code(leave_code_);
      const Status told = client_->SendAndWait(kEnvelope, Stamped(leave), kLeaveMs);
      if (!told.ok()) VLOG(1) << "leaving: " << told.message();
    }
    client_->Stop();
  }

  Status Start() {
    RpcClientCallbacks callbacks;
    callbacks.message = [this](uint16_t type, const std::string& payload) {
      OnMessage(type, payload);
    };
    callbacks.closed = [this](const Status& reason) { OnClosed(reason); };
    RpcClientOptions options;
    options.server = options_.coordinator;
    options.connect_ms = options_.connect_ms;
    ASSIGN_OR_RETURN(client_, RpcClient::Connect(options, std::move(callbacks)));
    proto::ToCoordinator join;
    *join.mutable_join() = join_;
    client_->Send(kEnvelope, join);
    Beat();
    std::unique_lock lock(mutex_);
    const bool answered = changed_.wait_for(lock, std::chrono::milliseconds(options_.plan_ms),
                                            [this] { return planned_ || state_.end(); });
    if (state_.end() && !planned_) {
      return state_.end()->ok() ? UnavailableError("the run ended before it began") : *state_.end();
    }
    if (!answered) {
      return DeadlineExceededError(
          StrCat("no plan from the coordinator within ", options_.plan_ms / 1000, " s"));
    }
    return OkStatus();
  }

  Result<StepOrders> AwaitBudget(int64_t step) {
    std::unique_lock lock(mutex_);
    EnterPhase("wait_budget", 0);
    std::optional<StepOrders> orders;
    changed_.wait(lock, [&] {
      orders = state_.OrdersBefore(step);
      return state_.end() || orders;
    });
    if (state_.end() && !state_.end()->ok()) return *state_.end();
    if (!orders) return InternalError(StrCat("the run ended before step ", step));
    step_ = orders->stop ? step - 1 : step;
    return *orders;
  }

  void SetPhase(std::string_view phase, int64_t microbatch) {
    int64_t step;
    {
      const std::lock_guard lock(mutex_);
      EnterPhase(phase, microbatch);
      step = step_;
    }
    ReachFaultPoint(step, phase);
  }

  bool FlipsABit(int64_t step) const {
    return fault_.action == "flip" && fault_.At(join_.rank(), step, "state.committed");
  }

  void ReachFaultPoint(int64_t step, std::string_view point) {
    FaultPoint(fault_, join_.rank(), step, point);
    if (fault_.action != "silent" || !fault_.At(join_.rank(), step, point)) return;
    {
      const std::lock_guard lock(mutex_);
      silent_ = true;
    }
    while (HasLease()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

  void ReportStep(proto::StepReport report) {
    proto::ToCoordinator message;
    {
      const std::lock_guard lock(mutex_);
      EnterPhase("wait_report", 0);
      if (report.phases().empty()) {
        for (const auto& [phase, seconds] : phase_seconds_) {
          if (phase.starts_with("wait")) continue;
          proto::PhaseTime* time = report.add_phases();
          time->set_phase(phase);
          time->set_seconds(seconds);
        }
      }
      phase_seconds_.clear();
    }
    *message.mutable_step_report() = std::move(report);
    Send(message);
  }

  void Send(proto::ToCoordinator& message) { client_->Send(kEnvelope, Stamped(message)); }

  Status AwaitLease() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock,
                  [this] { return state_.end() || state_.HasLease(RealClock().NowMicros()); });
    if (!state_.end()) return OkStatus();
    return state_.end()->ok() ? InternalError("the run has ended") : *state_.end();
  }

  Status AwaitCheckpoint(int64_t step) {
    std::unique_lock lock(mutex_);
    EnterPhase("wait_checkpoint", 0);
    std::optional<Status> outcome;
    changed_.wait(lock, [&] {
      outcome = state_.CheckpointOutcome(step);
      return state_.end() || outcome;
    });
    if (outcome) return *outcome;
    return state_.end()->ok() ? InternalError("the run ended before its checkpoint was in place")
                              : *state_.end();
  }

  Status Finish() {
    std::unique_lock lock(mutex_);
    EnterPhase("wait_finish", 0);
    changed_.wait(lock, [this] { return state_.end().has_value(); });
    return *state_.end();
  }

  void Fail(const Status& why) {
    const std::lock_guard lock(mutex_);
    leave_reason_ = why.message();
    leave_code_ = ExitCode(why);
    proto::ToCoordinator leave;
    leave.set_generation(state_.generation());
    leave.mutable_leave()->set_reason(leave_reason_);
    leave.mutable_leave()->set_exit_code(leave_code_);
    client_->Send(kEnvelope, leave);
  }

  bool HasLease() const {
    const std::lock_guard lock(mutex_);
    return state_.HasLease(RealClock().NowMicros());
  }
  uint64_t generation() const {
    const std::lock_guard lock(mutex_);
    return state_.generation();
  }
  const proto::Plan& plan() const { return plan_; }

 private:
  std::string Stamped(proto::ToCoordinator& message) const {
    message.set_generation(generation());
    return message.SerializeAsString();
  }

  // Under the lock.
  void EnterPhase(std::string_view phase, int64_t microbatch) {
    const Micros now = RealClock().NowMicros();
    if (!phase_.empty()) {
      phase_seconds_[phase_] += static_cast<double>(now - phase_since_) * 1e-6;
    }
    phase_.assign(phase);
    phase_since_ = now;
    microbatch_ = microbatch;
    ++entered_;
  }

  // On the client's thread, until the client stops.
  void Beat() {
    proto::ToCoordinator message;
    int64_t period_ms;
    bool silent;
    {
      const std::lock_guard lock(mutex_);
      if (left_ || disconnected_) return;
      message.set_generation(state_.generation());
      proto::Heartbeat* beat = message.mutable_heartbeat();
      beat->set_step(step_);
      beat->set_phase(phase_);
      beat->set_microbatch(microbatch_);
      beat->set_entered(entered_);
      period_ms = std::max<int64_t>(10, lease_ms_ / 3);
      silent = silent_;
    }
    if (!silent) client_->Send(kEnvelope, message);
    client_->RunAfter(period_ms, [this] { Beat(); });
  }

  void OnMessage(uint16_t type, const std::string& payload) {
    proto::ToWorker message;
    if (type != kEnvelope || !message.ParseFromString(payload)) {
      LOG(ERROR) << "the coordinator sent " << payload.size() << " bytes that are no message";
      return;
    }
    bool abort = false;
    {
      const std::lock_guard lock(mutex_);
      const bool before = state_.aborted();
      state_.Apply(message, RealClock().NowMicros());
      abort = !before && state_.aborted();
      if (message.has_welcome()) lease_ms_ = message.welcome().lease_ms();
      if (message.has_plan() && !planned_) {
        plan_ = message.plan();
        FindPlace(join_.rank(), &plan_);
        planned_ = true;
        step_ = plan_.start_step();
      }
      changed_.notify_all();
    }
    if (abort) TellAbort();
  }

  void OnClosed(const Status& reason) {
    bool abort = false;
    {
      const std::lock_guard lock(mutex_);
      disconnected_ = true;
      abort = !state_.end();
      state_.Disconnected(reason.message());
      changed_.notify_all();
    }
    if (abort) TellAbort();
  }

  // The state has ended for good, so reading it without the lock held by a callback is safe.
  void TellAbort() {
    Status why;
    {
      const std::lock_guard lock(mutex_);
      if (!planned_ || left_) return;
      why = *state_.end();
    }
    if (options_.on_abort) options_.on_abort(why);
  }

  const ControlClientOptions options_;
  const proto::Join join_;
  const PlannedFault fault_;
  std::unique_ptr<RpcClient> client_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  WorkerControlState state_;
  proto::Plan plan_;
  bool planned_ = false;
  bool disconnected_ = false;
  bool left_ = false;
  bool silent_ = false;  // by a planned fault: heartbeats are sent no more
  std::string leave_reason_ = "its process ended before the run did";
  int leave_code_ = 0;
  int64_t lease_ms_ = 300;
  int64_t step_ = 0;
  std::string phase_ = "load";
  Micros phase_since_ = RealClock().NowMicros();
  int64_t microbatch_ = 0;
  int64_t entered_ = 0;
  std::map<std::string, double, std::less<>> phase_seconds_;
};

ControlClient::ControlClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ControlClient::~ControlClient() = default;

Result<std::unique_ptr<ControlClient>> ControlClient::Connect(const ControlClientOptions& options,
                                                              const proto::Join& join) {
  auto impl = std::make_unique<Impl>(options, join);
  RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<ControlClient>(new ControlClient(std::move(impl)));
}

const proto::Plan& ControlClient::plan() const { return impl_->plan(); }
uint64_t ControlClient::generation() const { return impl_->generation(); }
Result<StepOrders> ControlClient::AwaitBudget(int64_t step) { return impl_->AwaitBudget(step); }
void ControlClient::SetPhase(std::string_view phase, int64_t microbatch) {
  impl_->SetPhase(phase, microbatch);
}
void ControlClient::ReportStep(proto::StepReport report) { impl_->ReportStep(std::move(report)); }

void ControlClient::ReportValidation(const proto::ValidationReport& report) {
  proto::ToCoordinator message;
  *message.mutable_validation_report() = report;
  impl_->Send(message);
}

void ControlClient::ReportChunks(const proto::ChunkReport& report) {
  proto::ToCoordinator message;
  *message.mutable_chunk_report() = report;
  impl_->Send(message);
}

Status ControlClient::AwaitCheckpoint(int64_t step) { return impl_->AwaitCheckpoint(step); }

void ControlClient::RequestStop(const std::string& reason) {
  proto::ToCoordinator message;
  message.mutable_stop_request()->set_reason(reason);
  impl_->Send(message);
}

bool ControlClient::HasLease() const { return impl_->HasLease(); }
Status ControlClient::AwaitLease() { return impl_->AwaitLease(); }
bool ControlClient::FlipsABit(int64_t step) const { return impl_->FlipsABit(step); }
void ControlClient::ReachFaultPoint(int64_t step, std::string_view point) {
  impl_->ReachFaultPoint(step, point);
}
Status ControlClient::Finish() { return impl_->Finish(); }
void ControlClient::Fail(const Status& why) { impl_->Fail(why); }

}  // namespace trireme
