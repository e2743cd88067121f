// Membership: who is admitted, who stands where, and what a loss means.
#include <algorithm>
#include <set>

#include "cluster/base/status.h"
#include "coordinator/coordinator_state.h"
#include "proto/control.pb.h"

namespace trireme {

void CoordinatorState::Refuse(WorkerId id, int exit_code, const std::string& reason) {
  const auto message = std::make_shared<proto::ToWorker>();
  message->set_generation(options_.generation);
  message->mutable_abort()->set_exit_code(exit_code);
  message->mutable_abort()->set_reason(reason);
  Emit(SendTo{id, message});
  Emit(CloseWorker{id, reason});
  workers_.erase(id);
  liveness_.Remove(id);
}

void CoordinatorState::OnJoin(WorkerId id, const proto::ToCoordinator& message) {
  const proto::Join& join = message.join();
  if (latecomers_ > 0) {
    --latecomers_;
    Worker& worker = workers_[id];
    worker.joined = worker.leaving = true;
    worker.info = {join.rank(), join.pid(), join.host(), "worker", -1, {}};
    Emit(SendTo{id, VerdictMessage()});
    return;
  }
  if (stage_ != Stage::kGathering) {
    Refuse(id, 5,
           StrCat("rank ", join.rank(), " comes too late: generation ", options_.generation,
                  " has started without it"));
    return;
  }
  if (message.generation() != 0 && message.generation() != options_.generation) {
    Refuse(id, 5,
           StrCat("rank ", join.rank(), " belongs to generation ", message.generation(),
                  ", this is generation ", options_.generation));
    return;
  }
  for (const auto& [other_id, other] : workers_) {
    if (!other.joined || other.info.rank != join.rank()) continue;
    const std::string reason =
        StrCat("rank ", join.rank(), " joined twice: ", other.info.host, ", pid ", other.info.pid,
               " and ", join.host(), ", pid ", join.pid());
    Refuse(id, 2, reason);
    return;
  }
  Worker& worker = workers_[id];
  worker.joined = true;
  worker.gpu = join.gpu();
  worker.nccl = join.nccl();
  worker.info = {join.rank(), join.pid(), join.host(), "worker", -1, {}};
  worker.incarnation = join.incarnation();
  worker.isa = join.isa();
  worker.product_library = join.product_library();
  worker.peak_flop_per_second = join.peak_flop_per_second();
  worker.reported_step = options_.start_step;
  liveness_.Add(id, now_);
  const bool run_on_gpus = options_.config != nullptr && options_.config->device() == "cuda";
  if ((join.device() == "cuda") != run_on_gpus) {
    Fail(2, StrCat("rank ", join.rank(), " on ", join.host(), " computes on a ",
                   run_on_gpus ? "CPU, the run on GPUs" : "GPU, the run on CPUs",
                   ": expected every worker on the same device"));
    return;
  }
  const auto welcome = std::make_shared<proto::ToWorker>();
  welcome->set_generation(options_.generation);
  welcome->mutable_welcome()->set_lease_ms(options_.lease / 1000);
  Emit(SendTo{id, welcome});

  std::vector<WorkerId> joined;
  for (const auto& [other_id, other] : workers_) {
    if (other.joined) joined.push_back(other_id);
  }
  if (static_cast<int>(joined.size()) == options_.mesh.size() + options_.spares) {
    StartWith(std::move(joined));
  }
}

void CoordinatorState::OnJoinDeadline() {
  std::vector<WorkerId> joined;
  std::string ranks;
  for (const auto& [id, worker] : workers_) {
    if (!worker.joined) continue;
    joined.push_back(id);
    ranks += StrCat(ranks.empty() ? "" : ", ", worker.info.rank);
  }
  if (static_cast<int>(joined.size()) >= options_.mesh.size()) {
    StartWith(std::move(joined));  // with fewer spares
    return;
  }
  Fail(5, StrCat("only ", joined.size(), " of ", options_.mesh.size(), " workers joined within ",
                 options_.join_deadline / 1'000'000, " s",
                 joined.empty() ? "" : StrCat(" (ranks ", ranks, ")")));
}

// Places go by rank; whoever is left over is parked.
void CoordinatorState::StartWith(std::vector<WorkerId> members) {
  std::sort(members.begin(), members.end(), [this](WorkerId a, WorkerId b) {
    return workers_[a].info.rank < workers_[b].info.rank;
  });
  Event event{options_.generation, "start", committed_};
  if (options_.coordinator) event.members.push_back(*options_.coordinator);
  for (size_t i = 0; i < members.size(); ++i) {
    Worker& worker = workers_[members[i]];
    if (static_cast<int>(i) < options_.mesh.size()) {
      worker.info.place = static_cast<int>(i);
      worker.info.point = options_.mesh.PointOf(worker.info.place);
      peak_flop_per_second_ += worker.peak_flop_per_second;
    } else {
      worker.info.role = "spare";
    }
    event.members.push_back(worker.info);
  }
  event.reason = StrCat(
      options_.mesh.size(), " workers as ", options_.mesh.ToString(), ", ",
      members.size() - static_cast<size_t>(options_.mesh.size()), " spares; ",
      committed_ == 0 ? std::string("from the beginning") : StrCat("from step ", committed_));
  Emit(WriteJournal{{"start", options_.generation, committed_, event.reason}});
  Emit(WriteEvent{event});
  for (const std::string& reason : options_.set_aside) {
    EmitEvent("corruption", committed_, StrCat("a checkpoint was set aside: ", reason));
  }
  if (committed_ > 0 || !options_.checkpoint_to_load.empty()) {
    EmitEvent("resume", committed_, StrCat("from ", options_.checkpoint_to_load));
  }
  TellMixedMachines();
  for (const std::string& reason : options_.promises_ended) {
    EmitEvent("promise_ended", committed_, reason);
  }
  stage_ = Stage::kRunning;
  SendPlans(members);
  if (options_.validate_start) validations_.emplace(committed_, options_.mesh.size());
  GrantBudget();
  FinishIfDone();
}

// Equal bits are promised among equal machines alone.
void CoordinatorState::TellMixedMachines() {
  std::set<std::string> isas;
  std::set<std::string> versions;
  for (const auto& [id, worker] : workers_) {
    if (!worker.joined) continue;
    isas.insert(worker.isa);
    versions.insert(worker.product_library);
  }
  const auto tell = [this](const char* what, const std::set<std::string>& values) {
    if (values.size() < 2) return;
    std::string all;
    for (const std::string& value : values) all += StrCat(all.empty() ? "" : "; ", value);
    EmitEvent("promise_ended", committed_,
              StrCat("equal bits are not promised: the workers differ in ", what, ": ", all));
  };
  tell("instruction set", isas);
  tell("library versions", versions);
}

// One message for all, whatever their number: each finds itself among the members.
void CoordinatorState::SendPlans(const std::vector<WorkerId>& members) {
  const auto message = std::make_shared<proto::ToWorker>();
  message->set_generation(options_.generation);
  proto::Plan* plan = message->mutable_plan();
  if (options_.config != nullptr) *plan->mutable_config() = *options_.config;
  for (const WorkerId id : members) {
    const MemberInfo& info = workers_[id].info;
    proto::Member* member = plan->add_members();
    member->set_rank(info.rank);
    member->set_place(info.place);
    member->set_host(info.host);
    member->set_gpu(workers_[id].gpu);
    member->set_nccl(workers_[id].nccl);
    member->set_pid(info.pid);
  }
  plan->set_start_step(options_.start_step);
  plan->set_checkpoint(options_.checkpoint_to_load);
  plan->set_steps_total(options_.steps_total);
  plan->set_lease_ms(options_.lease / 1000);
  plan->set_data(options_.mesh.size(Axis::kData));
  plan->set_tensor(options_.mesh.size(Axis::kTensor));
  plan->set_pipeline(options_.mesh.size(Axis::kPipeline));
  plan->set_context(options_.mesh.size(Axis::kContext));
  for (const WorkerId id : members) Emit(SendTo{id, message});
}

void CoordinatorState::CheckLiveness() {
  while (const auto lapsed = liveness_.Lapsed(now_)) {
    Emit(CloseWorker{lapsed->worker, "its lease lapsed"});
    OnLost(lapsed->worker,
           StrCat("its lease of ", options_.lease / 1000, " ms lapsed ", options_.lease_misses,
                  " times"),
           lapsed->silent);
    if (stage_ == Stage::kLeaving || stage_ == Stage::kEnded) return;
  }
  if (second_hand_ && now_ >= second_hand_->deadline) {
    Fail(5, StrCat(second_hand_->reason, ResumeHint()));
    return;
  }
  if (stage_ != Stage::kRunning) return;
  CheckHang();
}

// Told at once, fatal only if it stands: most stalls of a busy host pass.
void CoordinatorState::CheckHang() {
  const auto hang = liveness_.Hanging(now_);
  if (!hang) {
    if (hang_) {
      Event event{options_.generation, "straggler", committed_ + 1, hang_->rank};
      event.reason =
          StrCat("goes on, ", (now_ - hang_->since) / 1000, " ms after its hang was told");
      Emit(WriteEvent{event});
    }
    hang_.reset();
    return;
  }
  const Worker& worker = workers_.at(hang->worker);
  const std::string line =
      StrCat(hang->deadline, ": ", Name(worker), " is ", hang->behind,
             hang->missing.empty() ? "" : StrCat(", and has not entered ", hang->missing));
  if (!hang_) {
    Emit(WriteEvent{Event{options_.generation, "hang", committed_ + 1, worker.info.rank, line}});
    hang_ = StandingHang{worker.info.rank, now_};
  }
  if (now_ - hang_->since >= options_.hang_patience) {
    Fail(5, StrCat("hang: ", line, ResumeHint()));
  }
}

void CoordinatorState::OnLost(WorkerId id, const std::string& how, Micros silent) {
  const Worker worker = workers_.at(id);
  Event event{options_.generation, "worker_lost", committed_, worker.info.rank};
  event.reason = StrCat(worker.info.role, " ", Name(worker), ": ", how);
  event.detect_seconds = static_cast<double>(silent) * 1e-6;
  Emit(WriteEvent{event});
  workers_.erase(id);
  liveness_.Remove(id);
  if (worker.info.role == "spare") return;  // nobody computes with it
  Fail(5, StrCat("lost ", event.reason, ResumeHint()));
}

void CoordinatorState::OnLeave(WorkerId id, const proto::ToCoordinator& message) {
  Worker& worker = workers_.at(id);
  worker.leaving = true;
  liveness_.Remove(id);
  if (stage_ == Stage::kLeaving || worker.info.role == "spare") return;
  const proto::Leave& leave = message.leave();
  const std::string reason = StrCat(Name(worker), " leaves: ", leave.reason());
  if (leave.exit_code() == 5) {
    // It lost a peer; that loss is on its way here and makes the better report.
    if (!second_hand_) {
      const Micros wait = options_.lease * (options_.lease_misses + 1);
      second_hand_ = SecondHand{reason, now_ + wait};
    }
    return;
  }
  Fail(leave.exit_code() == 0 ? 1 : leave.exit_code(), reason);
}

}  // namespace trireme
