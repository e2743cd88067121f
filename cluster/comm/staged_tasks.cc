#include "cluster/comm/staged_tasks.h"

namespace trireme {

HostStage::HostStage(Stream* compute)
    : compute(compute),
      copies(SideStream(*compute)),
      pinned(std::make_shared<ScratchPool>(
          [compute](int64_t bytes) { return PinnedMemory(*compute, bytes); })) {}

StagedTasks::~StagedTasks() { End("its communicator is gone"); }

void StagedTasks::Add(StagedTask task) {
  task.operation->describe_wait = [this, operation = task.operation.get()](Micros waited) {
    return DescribeWait(operation, waited);
  };
  tasks_.push_back(std::move(task));
}

std::string StagedTasks::DescribeWait(const DeviceOperation* operation, Micros waited) const {
  for (const StagedTask& task : tasks_) {
    if (task.operation.get() != operation || !task.travel.valid()) continue;
    if (task.travel.Test()) break;
    // The host communicator's operation has the same name and number: its text, less that.
    const std::string text = task.travel.DescribeWait(waited);
    const size_t after_name = text.find(" on rank ");
    if (after_name != std::string::npos) return text.substr(after_name);
  }
  return StrCat(" on rank ", operation->group->rank, ": not done after ", waited / 1000,
                " ms, waiting for this rank's GPU");
}

bool StagedTasks::Advance() {
  bool progressed = false;
  bool may_submit = true;
  for (auto task = tasks_.begin(); task != tasks_.end();) {
    AdvanceTask(*task, &may_submit, &progressed);
    const bool over = task->operation->finished() && task->stage != StagedTask::Stage::kCopyingOut;
    if (!over) {
      ++task;
      continue;
    }
    Drain(*task);
    task = tasks_.erase(task);
    progressed = true;
  }
  std::erase_if(draining_, [](const auto& entry) { return entry.first.Reached(); });
  return progressed;
}

void StagedTasks::AdvanceTask(StagedTask& task, bool* may_submit, bool* progressed) {
  using Stage = StagedTask::Stage;
  DeviceOperation& operation = *task.operation;
  if (task.stage == Stage::kCopyingOut) {
    *may_submit = *may_submit && task.inputs_copied.Reached();
    if (!*may_submit) return;
    task.travel = task.submit();
    task.stage = Stage::kTravelling;
    *progressed = true;
  }
  if (task.stage == Stage::kTravelling && task.travel.Test() && !operation.finished()) {
    *progressed = true;
    if (Status status = task.travel.Wait(0); !status.ok()) {
      operation.Finish(std::move(status));
      return;
    }
    if (!task.copy_back) return operation.Finish(OkStatus());
    task.copy_back();
    task.results_copied = stage_->copies->Record();
    operation.results = task.results_copied;
    operation.under_way = true;
    task.stage = Stage::kCopyingBack;
  }
  if (task.stage == Stage::kCopyingBack && task.results_copied.Reached()) {
    operation.Finish(OkStatus());
  }
}

// The task is over for its caller; its messages and copies may not be.
void StagedTasks::Drain(StagedTask& task) {
  auto held = std::make_shared<std::vector<std::shared_ptr<void>>>(std::move(task.operation->held));
  if (task.travel.valid()) task.travel.Abandon(held);
  const StreamEvent last = stage_->copies->Record();
  if (!last.Reached()) draining_.push_back({last, {held}});
}

void StagedTasks::End(const std::string& reason) {
  for (StagedTask& task : tasks_) {
    task.operation->Finish(UnavailableError(StrCat(task.operation->Describe(), ": ", reason)));
    Drain(task);
  }
  tasks_.clear();
}

}  // namespace trireme
