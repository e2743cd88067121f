// Progress: budgets out, reports in, checkpoints and validations in their order.
#include <algorithm>
#include <cmath>

#include "cluster/base/status.h"
#include "coordinator/coordinator_state.h"
#include "proto/control.pb.h"

namespace trireme {

bool CoordinatorState::ValidateAfter(int64_t step) const {
  if (step == options_.start_step) return options_.validate_start;
  return options_.validation_every > 0 &&
         (step % options_.validation_every == 0 || step == options_.steps_total);
}

// A stop's checkpoint is one more; the last step's is never left out.
bool CoordinatorState::CheckpointAfter(int64_t step) const {
  if (step == options_.start_step) return false;
  return step == end_step() ||
         (options_.checkpoint_every > 0 && step % options_.checkpoint_every == 0);
}

// Grants are final: what a lease says about a step up to the budget never changes, except that a
// stop makes the budget's last step the last one and adds a checkpoint there.
void CoordinatorState::GrantBudget() {
  const int64_t budget = std::min(committed_ + options_.steps_ahead, end_step());
  if (budget == budget_ && committed_ != options_.start_step) return;
  for (int64_t step = budget_ + 1; step <= budget; ++step) {
    steps_.emplace(step, options_.mesh.size());
    if (ValidateAfter(step)) validations_.emplace(step, options_.mesh.size());
    if (CheckpointAfter(step)) checkpoints_.Expect(step);
  }
  budget_ = budget;
  SendToAll(MakeLease());
}

std::shared_ptr<const proto::ToWorker> CoordinatorState::MakeLease() const {
  const auto message = std::make_shared<proto::ToWorker>();
  message->set_generation(options_.generation);
  proto::Lease* lease = message->mutable_lease();
  lease->set_lease_ms(options_.lease / 1000);
  lease->set_budget_step(budget_);
  if (budget_ == end_step()) {
    lease->set_stop(true);
    lease->set_stop_after_step(budget_);
  }
  // A worker may not have acted on the orders of the last common step yet.
  for (int64_t step = committed_; step <= budget_; ++step) {
    if (CheckpointAfter(step)) lease->add_checkpoint_at(step);
    if (ValidateAfter(step)) lease->add_validate_at(step);
  }
  return message;
}

bool CoordinatorState::ChecksOut(WorkerId id, const proto::ToCoordinator& message) {
  const Worker& worker = workers_.at(id);
  if (worker.info.place < 0) {
    Protocol(id, "a report from a worker without a place");
    return false;
  }
  if (message.has_step_report()) {
    const int64_t step = message.step_report().step();
    const int64_t next = worker.reported_step + 1;
    if (step != next || step > budget_) {
      Protocol(id, StrCat("a report of step ", step, ", expected step ", next));
      return false;
    }
    if (ValidateAfter(step - 1) && worker.validated_step != step - 1) {
      Protocol(id, StrCat("step ", step, " without the validation after step ", step - 1));
      return false;
    }
  }
  if (message.has_validation_report()) {
    const int64_t step = message.validation_report().step();
    if (step != worker.reported_step || !ValidateAfter(step) || worker.validated_step == step) {
      Protocol(id, StrCat("a validation of step ", step, " that nobody asked for"));
      return false;
    }
  }
  if (message.has_chunk_report() && !checkpoints_.expects(message.chunk_report().step())) {
    Protocol(id,
             StrCat("chunks of step ", message.chunk_report().step(), " that nobody asked for"));
    return false;
  }
  return true;
}

void CoordinatorState::OnStepReport(WorkerId id, const proto::ToCoordinator& message) {
  Worker& worker = workers_.at(id);
  const proto::StepReport& report = message.step_report();
  worker.reported_step = report.step();
  for (const proto::PhaseTime& phase : report.phases()) {
    liveness_.Learn(phase.phase(), phase.seconds());
  }
  StepTally& tally = steps_.at(report.step());
  auto replicated = worker.info.point;
  replicated[static_cast<int>(Axis::kData)] = 0;
  const Status agreed = tally.Add(report, worker.info.rank, options_.mesh.RankOf(replicated));
  if (!agreed.ok()) {
    const std::string reason = StrCat("step ", report.step(), ": ", agreed.message());
    EmitEvent("corruption", report.step(), reason);
    Fail(5, StrCat("replicas disagree: ", reason, ResumeHint()));
    return;
  }
  if (!tally.complete()) return;
  // Measured before the first step, maybe on busy hosts: what a step reaches is a peak, too.
  if (peak_flop_per_second_ > 0) {
    peak_flop_per_second_ = std::max(peak_flop_per_second_, tally.flop_per_second());
  }
  // Every worker reports its steps in order, so this is the next one.
  const StepMetrics metrics =
      tally.Metrics(report.step(), label_tokens_, peak_flop_per_second_, options_.generation);
  steps_.erase(report.step());
  label_tokens_ = metrics.tokens;
  committed_ = metrics.step;
  Emit(WriteMetrics{metrics});
  if (!std::isfinite(metrics.loss) || !std::isfinite(metrics.grad_norm)) {
    // What would be saved from here on is of no use, and would push out what is.
    Fail(3, StrCat(std::isfinite(metrics.loss) ? "the gradient norm" : "the loss", " of step ",
                   metrics.step, " is not finite: nothing is saved from here on; a lower ",
                   "optimizer.lr or an optimizer.clip_norm may help", ResumeHint()));
    return;
  }
  if (const auto spike = spikes_.Add(metrics.step, metrics.loss)) {
    EmitEvent("spike", metrics.step, *spike);
  }
  Emit(WriteJournal{{"committed", options_.generation, committed_, "all workers reported"}});
  GrantBudget();
  FinishIfDone();
}

void CoordinatorState::OnValidationReport(WorkerId id, const proto::ToCoordinator& message) {
  Worker& worker = workers_.at(id);
  const proto::ValidationReport& report = message.validation_report();
  worker.validated_step = report.step();
  ValidationTally& tally = validations_.at(report.step());
  const Status agreed = tally.Add(report, worker.info.rank);
  if (!agreed.ok()) {
    const std::string reason =
        StrCat("validation after step ", report.step(), ": ", agreed.message());
    EmitEvent("corruption", report.step(), reason);
    Fail(5, StrCat("replicas disagree: ", reason, ResumeHint()));
    return;
  }
  if (!tally.complete()) return;
  Emit(WriteMetrics{ValidationMetrics{report.step(), tally.Mean()}});
  validations_.erase(report.step());
  FinishIfDone();
}

void CoordinatorState::OnChunkReport(WorkerId id, const proto::ToCoordinator& message) {
  const Worker& worker = workers_.at(id);
  const proto::ChunkReport& report = message.chunk_report();
  CheckpointFailure failure{report.error()};
  if (report.exit_code() != 0) failure.exit_code = report.exit_code();
  if (!checkpoints_.AddPart(report.step(), worker.info.place, report.manifest_part(), failure,
                            worker.info.rank)) {
    Protocol(id, StrCat("chunks of step ", report.step(), " twice"));
    return;
  }
  if (!checkpoints_.complete(report.step())) return;
  failure = checkpoints_.error(report.step());
  if (!failure.why.empty()) {
    FinishCheckpoint(report.step(), failure);
  } else {
    Emit(CommitManifest{report.step(), checkpoints_.TakeParts(report.step())});
  }
  FinishIfDone();
}

// A checkpoint that fails stops nothing but the run's own end.
void CoordinatorState::FinishCheckpoint(int64_t step, const CheckpointFailure& failure) {
  if (failure.why.empty()) {
    EmitEvent("checkpoint_saved", step, "all chunks written, manifest in place and verified");
    Emit(WriteJournal{{"checkpoint", options_.generation, step, "verified"}});
    for (const int64_t old : checkpoints_.Saved(step)) Emit(RemoveCheckpoint{old});
  } else {
    EmitEvent("checkpoint_failed", step, failure.why);
    checkpoints_.Failed(step, failure);
  }
  const auto message = std::make_shared<proto::ToWorker>();
  message->set_generation(options_.generation);
  message->mutable_checkpoint_committed()->set_step(step);
  message->mutable_checkpoint_committed()->set_error(failure.why);
  SendToAll(message);
}

void CoordinatorState::FinishIfDone() {
  if (stage_ != Stage::kRunning || committed_ != end_step()) return;
  if (!validations_.empty() || !checkpoints_.idle()) return;
  if (const auto failure = checkpoints_.failure(committed_)) {
    Fail(failure->exit_code, StrCat("the last checkpoint, of step ", committed_,
                                    ", could not be written: ", failure->why, ResumeHint()));
  } else if (committed_ < options_.steps_total) {
    Decide({75, committed_,
            StrCat("stopped by ", stop_reason_, " with a checkpoint of step ", committed_,
                   "; run again to continue")});
  } else {
    Decide({0, committed_, StrCat("all ", committed_, " steps are done")});
  }
}

}  // namespace trireme
