#include "tests/sim/simulation.h"

#include <algorithm>

#include "cluster/base/status.h"
#include "proto/control.pb.h"

namespace trireme {
namespace {

constexpr Micros kLease = 300'000;
constexpr Micros kBeat = kLease / 3;
constexpr Micros kTimeLimit = 3600LL * 1'000'000;

class Job {
 public:
  Job(const SimulationOptions& options, const std::vector<SimulatedFault>& faults,
      SimulatedRun* run)
      : options_(options),
        run_(*run),
        random_(options.seed * 1'000'003 + run->generation + 1),
        workers_(static_cast<size_t>(options.mesh.size())) {
    for (const SimulatedFault& fault : faults) faults_[{fault.at_step, fault.victim}] = fault.fault;
    CoordinatorOptions state;
    state.mesh = options.mesh;
    state.generation = ++run_.generation;
    state.start_step = run_.store.empty() ? 0 : *run_.store.rbegin();
    state.steps_total = options.steps_total;
    state.checkpoint_every = options.checkpoint_every;
    state.checkpoint_keep = options.checkpoint_keep;
    state.checkpoints.assign(run_.store.begin(), run_.store.end());
    state.validation_every = options.validation_every;
    CutLines(state.start_step);
    const bool due =
        options.validation_every > 0 && (state.start_step % options.validation_every == 0 ||
                                         state.start_step == options.steps_total);
    state.validate_start =
        due && (run_.lines.empty() || run_.lines.back() != std::make_pair(state.start_step, true));
    state.lease = kLease;
    tick_ = state.tick;
    coordinator_ = std::make_unique<CoordinatorState>(state);
  }

  void Run() {
    for (size_t i = 0; i < workers_.size(); ++i) {
      At(Random(500'000), [this, i] { Join(i); });
    }
    At(0, [this] { OnTick(); });
    while (!ended_ && !queue_.empty() && now_ < kTimeLimit) {
      auto next = std::move(const_cast<Entry&>(queue_.top()));
      queue_.pop();
      now_ = next.at;
      next.run();
    }
    if (!ended_) Violated(StrCat("the run did not end by ", now_ / 1'000'000, " s"));
  }

 private:
  struct Worker {
    WorkerControlState control;
    bool connected = false;
    bool frozen = false;
    bool hung = false;
    bool gone = false;
    int64_t done = -1;   // the last step finished
    bool acted = false;  // on the orders after `done`
    bool busy = false;
    WorkerPhase at;
    Micros last_up = 0;  // messages of one connection arrive in order
    Micros last_down = 0;
  };
  struct Entry {
    Micros at;
    uint64_t order;
    std::function<void()> run;
    bool operator<(const Entry& other) const {
      return std::pair(at, order) > std::pair(other.at, other.order);
    }
  };

  Micros Random(Micros max) { return static_cast<Micros>(random_() % static_cast<uint64_t>(max)); }
  bool Chance(double rate) { return static_cast<double>(random_() % 1'000'000) < rate * 1e6; }
  void At(Micros when, std::function<void()> what) {
    queue_.push({std::max(when, now_), next_order_++, std::move(what)});
  }
  void Violated(const std::string& what) {
    run_.violations.push_back(
        StrCat("seed ", options_.seed, " generation ", run_.generation, ": ", what));
  }
  static WorkerId IdOf(size_t index) { return index + 1; }

  void CutLines(int64_t step) {
    auto& lines = run_.lines;
    lines.erase(std::remove_if(lines.begin(), lines.end(),
                               [step](const auto& line) { return line.first > step; }),
                lines.end());
  }

  // ---- the coordinator's shell ----

  // While the coordinator is late, what reaches it waits.
  void ToCoordinatorAt(Micros when, Input input) {
    At(when, [this, input = std::move(input)]() mutable {
      if (now_ < late_until_) {
        ToCoordinatorAt(late_until_ + 1, std::move(input));
      } else {
        Apply(input);
      }
    });
  }

  void OnTick() {
    if (now_ < late_until_) {
      At(late_until_, [this] { OnTick(); });
      return;
    }
    Apply(Tick{});
    At(now_ + tick_, [this] { OnTick(); });
  }

  void Apply(const Input& input) {
    for (const Effect& effect : coordinator_->Apply(input, now_)) {
      if (ended_) Violated("an effect after the end");
      std::visit([this](const auto& each) { Do(each); }, effect);
    }
  }

  void Do(const SendTo& effect) {
    Worker& worker = workers_[effect.worker - 1];
    worker.last_down = std::max(worker.last_down, now_ + 50 + Random(options_.delay_max));
    At(worker.last_down, [this, effect] { Receive(effect.worker - 1, *effect.message); });
  }

  void Do(const CloseWorker& effect) { workers_[effect.worker - 1].connected = false; }

  void Do(const WriteEvent& effect) {
    ++run_.events[effect.event.kind];
    if (effect.event.generation != run_.generation) Violated("an event of another generation");
    if (effect.event.kind == "hang") Detected();
  }

  void Do(const WriteMetrics& effect) {
    const auto* step = std::get_if<StepMetrics>(&effect.line);
    const std::pair<int64_t, bool> line =
        step != nullptr ? std::pair(step->step, false)
                        : std::pair(std::get<ValidationMetrics>(effect.line).step, true);
    if (!run_.lines.empty() && line <= run_.lines.back()) {
      Violated(StrCat("metrics of step ", line.first, " after step ", run_.lines.back().first));
    }
    run_.lines.push_back(line);
    if (step == nullptr) return;
    const auto [at, first] = run_.loss_of.emplace(step->step, step->loss);
    if (at->second != step->loss) Violated(StrCat("two values of step ", step->step));
  }

  void Do(const WriteJournal& effect) {
    if (effect.record.kind != "verdict") return;
    if (verdict_) Violated("a second verdict");
    verdict_ = true;
    run_.verdicts.push_back(
        {effect.record.exit_code.value_or(-1), effect.record.step, effect.record.reason});
    Detected();
  }

  void Detected() {
    if (fault_at_ >= 0) run_.worst_detection = std::max(run_.worst_detection, now_ - fault_at_);
    fault_at_ = -1;
  }

  void Do(const CommitManifest& effect) {
    if (effect.parts.size() != workers_.size()) Violated("a manifest without all parts");
    const bool fails = Chance(options_.storage_failure_rate);
    At(now_ + Random(400'000), [this, step = effect.step, fails] {
      if (!fails) run_.store.insert(step);
      ToCoordinatorAt(now_, StorageResult{StorageResult::Operation::kCommit, step,
                                          fails ? "no space left" : ""});
    });
  }

  void Do(const RemoveCheckpoint& effect) {
    run_.store.erase(effect.step);
    if (run_.store.empty()) Violated("the last checkpoint was deleted");
    if (*run_.store.rbegin() < effect.step) Violated("a newer checkpoint was deleted");
    ToCoordinatorAt(now_ + Random(50'000),
                    StorageResult{StorageResult::Operation::kDelete, effect.step, ""});
  }

  void Do(const EndRun&) {
    if (!verdict_) Violated("an end without a verdict");
    ended_ = true;
  }

  // ---- workers ----

  void Send(size_t index, proto::ToCoordinator message) {
    Worker& worker = workers_[index];
    if (!worker.connected || worker.frozen) return;
    message.set_generation(worker.control.generation());
    worker.last_up = std::max(worker.last_up, now_ + 50 + Random(options_.delay_max));
    ToCoordinatorAt(worker.last_up,
                    WorkerMessage{IdOf(index), std::make_shared<const proto::ToCoordinator>(
                                                   std::move(message))});
  }

  void Join(size_t index) {
    workers_[index].connected = true;
    workers_[index].last_up = now_;
    ToCoordinatorAt(now_, WorkerConnected{IdOf(index)});
    proto::ToCoordinator message;
    message.mutable_join()->set_rank(static_cast<int>(index) + 1);
    Send(index, message);
    Beat(index);
  }

  void Beat(size_t index) {
    Worker& worker = workers_[index];
    if (worker.gone || worker.frozen) return;
    proto::ToCoordinator message;
    proto::Heartbeat* beat = message.mutable_heartbeat();
    beat->set_step(worker.at.step);
    beat->set_phase(worker.at.phase);
    beat->set_entered(worker.at.entered);
    Send(index, message);
    At(now_ + kBeat, [this, index] { Beat(index); });
  }

  void Receive(size_t index, const proto::ToWorker& message) {
    Worker& worker = workers_[index];
    if (worker.gone || worker.frozen) return;
    worker.control.Apply(message, now_);
    if (message.has_plan()) {
      worker.done = message.plan().start_step();
      worker.at.step = worker.done;
    }
    if (worker.control.end()) {
      Leave(index);
    } else if (worker.done >= 0) {
      Advance(index);
    }
  }

  void Leave(size_t index) {
    Worker& worker = workers_[index];
    if (worker.control.end()->ok() || worker.control.end()->code() == StatusCode::kStopped) {
      if (stopped_at_ >= 0 && stopped_at_ != worker.done) Violated("workers stop at two steps");
      stopped_at_ = worker.done;
    }
    worker.gone = true;
    Close(index, "closed by the peer");
  }

  void Close(size_t index, const std::string& reason) {
    Worker& worker = workers_[index];
    if (!worker.connected) return;
    worker.connected = false;
    worker.last_up = std::max(worker.last_up, now_ + 50 + Random(options_.delay_max));
    ToCoordinatorAt(worker.last_up, WorkerClosed{IdOf(index), reason});
  }

  void Enter(size_t index, const std::string& phase) {
    WorkerPhase& at = workers_[index].at;
    at.step = workers_[index].done + 1;
    at.phase = phase;
    ++at.entered;
  }

  void Advance(size_t index) {
    Worker& worker = workers_[index];
    if (worker.busy) return;
    const auto orders = worker.control.OrdersBefore(worker.done + 1);
    if (!orders || worker.acted) return;
    worker.acted = true;
    proto::LossPart part;
    part.set_loss_sum(LossOfStep(worker.done));
    part.set_label_tokens(1);
    if (orders->validate) {
      proto::ToCoordinator message;
      message.mutable_validation_report()->set_step(worker.done);
      *message.mutable_validation_report()->add_loss_parts() = part;
      Send(index, message);
    }
    if (orders->checkpoint) {
      proto::ToCoordinator message;
      message.mutable_chunk_report()->set_step(worker.done);
      if (Chance(options_.storage_failure_rate / static_cast<double>(workers_.size()))) {
        message.mutable_chunk_report()->set_error("no space left");
      }
      Send(index, message);
    }
    if (orders->stop) return;
    const int64_t step = worker.done + 1;
    if (step > coordinator_->budget_step()) Violated("a step that was not granted");
    worker.busy = true;
    Enter(index, "pipeline.forward");
    if (Struck(index, step)) return;
    At(now_ + 1000 + Random(options_.phase_max), [this, index, step] { EnterReduce(index, step); });
  }

  // Reducing takes all workers: those that come wait for the last.
  void EnterReduce(size_t index, int64_t step) {
    Worker& worker = workers_[index];
    if (worker.gone || worker.frozen || worker.hung) return;
    Enter(index, "reduce.finish");
    std::vector<size_t>& here = reducing_[step];
    here.push_back(index);
    if (here.size() < workers_.size()) return;
    for (const size_t each : here) {
      At(now_ + 1000 + Random(options_.phase_max), [this, each, step] { Finish(each, step); });
    }
    reducing_.erase(step);
  }

  void Finish(size_t index, int64_t step) {
    Worker& worker = workers_[index];
    if (worker.gone || worker.frozen) return;
    worker.done = step;
    worker.acted = false;
    worker.busy = false;
    worker.at.phase = "wait_report";
    proto::ToCoordinator message;
    proto::StepReport* report = message.mutable_step_report();
    report->set_step(step);
    proto::LossPart* part = report->add_loss_parts();
    part->set_loss_sum(LossOfStep(step));
    part->set_label_tokens(1);
    report->set_grad_norm(LossOfStep(step) / 2);
    report->set_seconds(0.1);
    for (const char* name : {"pipeline.forward", "reduce.finish"}) {
      proto::PhaseTime* phase = report->add_phases();
      phase->set_phase(name);
      phase->set_seconds(0.1);
    }
    Send(index, message);
    Advance(index);
  }

  // Whether the planned fault of this worker and step takes it out.
  bool Struck(size_t index, int64_t step) {
    const auto found = faults_.find({step, static_cast<int>(index)});
    if (found == faults_.end()) return false;
    const Fault fault = found->second;
    faults_.erase(found);
    Worker& worker = workers_[index];
    if (fault == Fault::kStop) {
      ToCoordinatorAt(now_, StopRequested{"SIGTERM"});
      return false;
    }
    if (fault == Fault::kCoordinatorLate) {
      late_until_ = now_ + 2'000'000 + Random(10'000'000);
      return false;
    }
    if (fault_at_ < 0) fault_at_ = now_;
    if (fault == Fault::kCrash) {
      worker.gone = true;
      Close(index, "connection reset by peer");
    }
    worker.frozen = worker.frozen || fault == Fault::kFreeze;
    worker.hung = worker.hung || fault == Fault::kHang;
    return true;
  }

  const SimulationOptions options_;
  SimulatedRun& run_;
  std::mt19937_64 random_;
  std::map<std::pair<int64_t, int>, Fault> faults_;
  std::unique_ptr<CoordinatorState> coordinator_;
  std::vector<Worker> workers_;
  std::map<int64_t, std::vector<size_t>> reducing_;
  std::priority_queue<Entry> queue_;
  uint64_t next_order_ = 0;
  Micros now_ = 0;
  Micros tick_ = 0;
  Micros late_until_ = 0;
  Micros fault_at_ = -1;
  int64_t stopped_at_ = -1;
  bool verdict_ = false;
  bool ended_ = false;
};

}  // namespace

double LossOfStep(int64_t step) { return 10.0 / static_cast<double>(step + 1); }

void SimulateJob(const SimulationOptions& options, const std::vector<SimulatedFault>& faults,
                 SimulatedRun* run) {
  Job(options, faults, run).Run();
}

}  // namespace trireme
