#include "coordinator/coordinator_state.h"

#include <algorithm>

#include "cluster/base/status.h"
#include "proto/control.pb.h"

namespace trireme {

CoordinatorState::CoordinatorState(CoordinatorOptions options)
    : options_(std::move(options)),
      liveness_(options_),
      committed_(options_.start_step),
      budget_(options_.start_step),
      label_tokens_(options_.label_tokens_done),
      checkpoints_(options_.mesh.size(), options_.checkpoints, options_.checkpoint_keep) {
  CHECK_LE(options_.start_step, options_.steps_total);
  CHECK_GE(options_.steps_ahead, 1);
}

Effects CoordinatorState::Apply(const Input& input, Micros now) {
  now_ = now;
  if (!started_) started_ = now;
  if (stage_ != Stage::kEnded) std::visit([this](const auto& each) { On(each); }, input);
  return std::exchange(effects_, {});
}

void CoordinatorState::On(const WorkerConnected& input) {
  if (stage_ == Stage::kLeaving && latecomers_ == 0) {
    Emit(CloseWorker{input.worker, "the run ends"});
    return;
  }
  workers_[input.worker] = {};
}

void CoordinatorState::On(const WorkerClosed& input) {
  const auto found = workers_.find(input.worker);
  if (found == workers_.end()) return;
  const Worker& worker = found->second;
  if (stage_ == Stage::kLeaving || !worker.joined || worker.leaving) {
    liveness_.Remove(input.worker);
    workers_.erase(found);
    if (stage_ == Stage::kLeaving) EndIfAllLeft();
    return;
  }
  OnLost(input.worker, StrCat("its connection ended: ", input.reason),
         liveness_.SilentFor(input.worker, now_));
}

void CoordinatorState::On(const WorkerMessage& input) {
  const auto found = workers_.find(input.worker);
  if (found == workers_.end()) return;
  liveness_.Heard(input.worker, now_);
  const proto::ToCoordinator& message = *input.message;
  if (message.has_join()) {
    OnJoin(input.worker, message);
    return;
  }
  if (!found->second.joined) {
    Refuse(input.worker, 1, "a message before joining");
    return;
  }
  if (message.has_leave()) {
    OnLeave(input.worker, message);
    return;
  }
  if (stage_ == Stage::kLeaving) return;
  if (message.has_stop_request()) {
    On(StopRequested{StrCat(message.stop_request().reason(), " at ", Name(found->second))});
    return;
  }
  // A heartbeat may have left before the plan arrived.
  const bool early = message.generation() == 0 && message.has_heartbeat();
  if (message.generation() < options_.generation && !early) return;  // of an old membership
  if (message.generation() > options_.generation) {
    Protocol(input.worker, StrCat("a message of generation ", message.generation()));
    return;
  }
  if (message.has_heartbeat()) {
    const proto::Heartbeat& at = message.heartbeat();
    liveness_.Entered(input.worker, {at.step(), at.phase(), at.microbatch(), at.entered()}, now_);
    if (stage_ == Stage::kRunning) Emit(SendTo{input.worker, MakeLease()});
    return;
  }
  if (!ChecksOut(input.worker, message)) return;
  if (message.has_step_report()) OnStepReport(input.worker, message);
  if (message.has_validation_report()) OnValidationReport(input.worker, message);
  if (message.has_chunk_report()) OnChunkReport(input.worker, message);
}

void CoordinatorState::On(const Tick&) {
  liveness_.OnTick(now_);
  switch (stage_) {
    case Stage::kGathering:
      CheckLiveness();
      if (stage_ == Stage::kGathering && now_ - *started_ >= options_.join_deadline) {
        OnJoinDeadline();
      }
      break;
    case Stage::kRunning:
      CheckLiveness();
      break;
    case Stage::kLeaving:
      if (now_ >= leave_deadline_) {
        latecomers_ = 0;
        for (const auto& [id, worker] : workers_) {
          Emit(CloseWorker{id, StrCat(Name(worker), " did not leave in time")});
        }
        workers_.clear();
        EndIfAllLeft();
      }
      break;
    case Stage::kEnded:
      break;
  }
}

// After a verdict a signal is only the launcher cleaning up.
void CoordinatorState::On(const StopRequested& input) {
  if (stage_ == Stage::kLeaving || stop_step_ || committed_ == options_.steps_total) return;
  stop_reason_ = input.reason;
  if (stage_ == Stage::kGathering) {
    Decide({75, committed_, StrCat("stopped by ", input.reason, " before all workers had joined")});
    return;
  }
  // No worker can be past the largest budget, and all may reach it: the one common step.
  stop_step_ = budget_;
  Emit(WriteJournal{{"stopping", options_.generation, budget_,
                     StrCat(input.reason, ": all stop after step ", budget_)}});
  if (CheckpointAfter(budget_)) checkpoints_.Expect(budget_);
  SendToAll(MakeLease());
  FinishIfDone();
}

void CoordinatorState::On(const StorageResult& input) {
  if (input.operation == StorageResult::Operation::kCommit) {
    if (checkpoints_.expects(input.step)) FinishCheckpoint(input.step, {input.error});
  } else {
    checkpoints_.Deleted(input.step);
    if (input.error.empty()) {
      EmitEvent("checkpoint_deleted", input.step, "newer checkpoints have been verified");
      Emit(WriteJournal{{"checkpoint_deleted", options_.generation, input.step, "retention"}});
    } else {
      EmitEvent("checkpoint_failed", input.step, StrCat("could not be deleted: ", input.error));
    }
  }
  FinishIfDone();
}

void CoordinatorState::Fail(int exit_code, const std::string& reason) {
  Decide({exit_code, committed_, reason});
}

// A member that breaks the protocol is a bug of this program, not a lost machine.
void CoordinatorState::Protocol(WorkerId id, const std::string& what) {
  Fail(1, StrCat(Name(workers_.at(id)), " broke the protocol: ", what, " (generation ",
                 options_.generation, ", all have finished step ", committed_, ", budget ", budget_,
                 ")"));
}

void CoordinatorState::Decide(const Verdict& verdict) {
  if (verdict_) return;
  verdict_ = verdict;
  Event event{options_.generation, "stop", verdict.step};
  event.reason = verdict.reason;
  event.exit_code = verdict.exit_code;
  Emit(WriteEvent{event});
  Emit(WriteJournal{
      {"verdict", options_.generation, verdict.step, verdict.reason, verdict.exit_code}});
  SendToAll(VerdictMessage());
  if (stage_ == Stage::kGathering) {
    latecomers_ = options_.mesh.size() + options_.spares;
    for (const auto& [id, worker] : workers_) latecomers_ -= worker.joined;
  }
  for (auto each = workers_.begin(); each != workers_.end();) {
    const bool stays = each->second.joined || latecomers_ > 0;
    if (!stays) Emit(CloseWorker{each->first, "the run ends"});
    each = stays ? std::next(each) : workers_.erase(each);
  }
  stage_ = Stage::kLeaving;
  leave_deadline_ = now_ + options_.leave_deadline;
  EndIfAllLeft();
}

std::shared_ptr<const proto::ToWorker> CoordinatorState::VerdictMessage() const {
  auto message = std::make_shared<proto::ToWorker>();
  message->set_generation(options_.generation);
  if (verdict_->exit_code == 0 || verdict_->exit_code == 75) {
    message->mutable_stop()->set_exit_code(verdict_->exit_code);
    message->mutable_stop()->set_reason(verdict_->reason);
  } else {
    message->mutable_abort()->set_exit_code(verdict_->exit_code);
    message->mutable_abort()->set_reason(verdict_->reason);
  }
  return message;
}

void CoordinatorState::EndIfAllLeft() {
  if (stage_ != Stage::kLeaving || !workers_.empty() || latecomers_ > 0) return;
  stage_ = Stage::kEnded;
  Emit(EndRun{*verdict_});
}

void CoordinatorState::EmitEvent(const std::string& kind, int64_t step, const std::string& reason) {
  Event event{options_.generation, kind, step};
  event.reason = reason;
  Emit(WriteEvent{event});
}

void CoordinatorState::SendToAll(const std::shared_ptr<const proto::ToWorker>& message) {
  for (const auto& [id, worker] : workers_) {
    if (worker.joined) Emit(SendTo{id, message});
  }
}

std::string CoordinatorState::Name(const Worker& worker) const {
  if (!worker.joined) return "a worker that has not joined";
  return StrCat("rank ", worker.info.rank, " (", worker.info.host, ", pid ", worker.info.pid, ")");
}

std::string CoordinatorState::ResumeHint() const {
  const int64_t from = checkpoints_.newest();
  return from < 0 ? "; the same command starts again from the beginning"
                  : StrCat("; the same command goes on from step ", from);
}

}  // namespace trireme
