// The coordinator as a pure state machine: no clock, no socket, no thread, no file.
//
// Gathering: workers join until all are there. Running: budgets are granted, reports collected,
// checkpoints and validations asked for. Leaving: the verdict stands, everybody was told to go.
// Ended. A worker that is lost while running ends the run (exit code 5); it can be resumed.
// docs/control_plane.md has the messages.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/checkpoint_ledger.h"
#include "coordinator/control_types.h"
#include "coordinator/liveness.h"
#include "coordinator/spike_detector.h"
#include "coordinator/step_ledger.h"

namespace trireme {

class CoordinatorState {
 public:
  explicit CoordinatorState(CoordinatorOptions options);

  // What follows from `input` at `now`, in the order in which it must be done. Equal histories of
  // inputs give equal effects. The first call sets when time starts. Nothing follows EndRun.
  Effects Apply(const Input& input, Micros now);

  enum class Stage { kGathering, kRunning, kLeaving, kEnded };
  Stage stage() const { return stage_; }
  // The last step that all workers have finished.
  int64_t committed_step() const { return committed_; }
  int64_t budget_step() const { return budget_; }
  uint64_t generation() const { return options_.generation; }

 private:
  struct Worker {
    bool joined = false;
    bool leaving = false;  // said that it goes
    MemberInfo info{.rank = -1, .place = -1};
    uint64_t incarnation = 0;
    std::string isa;
    std::string product_library;
    std::string gpu, nccl;  // proto::Member
    double peak_flop_per_second = 0;
    int64_t reported_step = 0;
    int64_t validated_step = -1;
  };

  // Inputs.
  void On(const WorkerConnected& input);
  void On(const WorkerClosed& input);
  void On(const WorkerMessage& input);
  void On(const Tick& input);
  void On(const StopRequested& input);
  void On(const StorageResult& input);

  // Membership (coordinator_membership.cc).
  void OnJoin(WorkerId id, const proto::ToCoordinator& message);
  void Refuse(WorkerId id, int exit_code, const std::string& reason);
  void StartWith(std::vector<WorkerId> members);
  void OnJoinDeadline();
  void TellMixedMachines();
  void SendPlans(const std::vector<WorkerId>& members);
  void OnLost(WorkerId id, const std::string& how, Micros silent);
  void OnLeave(WorkerId id, const proto::ToCoordinator& message);
  void CheckLiveness();
  void CheckHang();

  // Progress (coordinator_progress.cc).
  bool ChecksOut(WorkerId id, const proto::ToCoordinator& message);
  void OnStepReport(WorkerId id, const proto::ToCoordinator& message);
  void OnValidationReport(WorkerId id, const proto::ToCoordinator& message);
  void OnChunkReport(WorkerId id, const proto::ToCoordinator& message);
  void FinishCheckpoint(int64_t step, const CheckpointFailure& failure);
  void GrantBudget();
  std::shared_ptr<const proto::ToWorker> MakeLease() const;
  bool ValidateAfter(int64_t step) const;
  bool CheckpointAfter(int64_t step) const;
  int64_t end_step() const { return stop_step_.value_or(options_.steps_total); }
  void FinishIfDone();

  // Ends (coordinator_state.cc).
  void Fail(int exit_code, const std::string& reason);
  void Protocol(WorkerId id, const std::string& what);
  void Decide(const Verdict& verdict);
  std::shared_ptr<const proto::ToWorker> VerdictMessage() const;
  void EndIfAllLeft();

  void Emit(Effect effect) { effects_.push_back(std::move(effect)); }
  void EmitEvent(const std::string& kind, int64_t step, const std::string& reason);
  void SendToAll(const std::shared_ptr<const proto::ToWorker>& message);
  std::string Name(const Worker& worker) const;
  std::string ResumeHint() const;

  const CoordinatorOptions options_;
  Stage stage_ = Stage::kGathering;
  Micros now_ = 0;
  std::optional<Micros> started_;
  std::map<WorkerId, Worker> workers_;
  Liveness liveness_;
  SpikeDetector spikes_;

  int64_t committed_ = 0;
  int64_t budget_ = 0;
  int64_t label_tokens_ = 0;
  double peak_flop_per_second_ = 0;
  std::map<int64_t, StepTally> steps_;
  std::map<int64_t, ValidationTally> validations_;
  CheckpointLedger checkpoints_;

  std::optional<int64_t> stop_step_;
  std::string stop_reason_;
  struct SecondHand {
    std::string reason;
    Micros deadline;
  };
  // A worker left because it lost a peer: the loss itself should show up by this deadline.
  std::optional<SecondHand> second_hand_;
  struct StandingHang {
    int rank;
    Micros since;  // told of then
  };
  std::optional<StandingHang> hang_;
  std::optional<Verdict> verdict_;
  Micros leave_deadline_ = 0;
  // Members that are still on their way to a run that was ended before it began: they are to learn
  // that from the coordinator, not from a closed port.
  int latecomers_ = 0;
  Effects effects_;
};

}  // namespace trireme
