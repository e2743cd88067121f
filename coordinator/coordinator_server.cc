#include "coordinator/coordinator_server.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <filesystem>
#include <mutex>

#include "cluster/rpc/auth.h"
#include "cluster/rpc/rpc_server.h"
#include "coordinator/coordinator_state.h"
#include "coordinator/journal.h"
#include "coordinator/line_file.h"
#include "coordinator/progress_line.h"
#include "coordinator/run_lock.h"
#include "coordinator/run_records.h"
#include "coordinator/storage_thread.h"
#include "coordinator/tensorboard.h"
#include "proto/config.pb.h"
#include "proto/control.pb.h"

namespace trireme {
namespace {

constexpr uint16_t kEnvelope = 1;

std::string HostName() {
  char host[256] = "localhost";
  gethostname(host, sizeof(host) - 1);
  return host;
}

Status StatusOf(const Verdict& verdict) {
  switch (verdict.exit_code) {
    case 0:
      return OkStatus();
    case 2:
      return InvalidArgumentError(verdict.reason);
    case 3:
      return DataLossError(verdict.reason);
    case 4:
      return StorageError(verdict.reason);
    case 5:
      return UnavailableError(verdict.reason);
    case 75:
      return StoppedError(verdict.reason);
    default:
      return InternalError(verdict.reason);
  }
}

// An unset size of an axis is one.
int AxisSize(bool set, int64_t value) { return set ? static_cast<int>(value) : 1; }

CoordinatorOptions StateOptions(const CoordinatorServerOptions& options, uint64_t generation,
                                const MetricsSoFar& so_far) {
  const proto::Config& config = *options.config;
  const proto::LayoutConfig& layout = config.layout();
  CoordinatorOptions state;
  state.coordinator = MemberInfo{0, getpid(), HostName(), "coordinator", -1, {}};
  state.mesh = Mesh(AxisSize(layout.has_data(), layout.data()),
                    AxisSize(layout.has_tensor(), layout.tensor()),
                    AxisSize(layout.has_pipeline(), layout.pipeline()),
                    AxisSize(layout.has_context(), layout.context()));
  state.spares = options.spares;
  state.generation = generation;
  state.start_step = options.start_step;
  state.steps_total = config.lr_schedule().steps();
  state.label_tokens_done = options.label_tokens;
  state.checkpoint_every = config.checkpoint().every_steps();
  if (config.checkpoint().has_keep()) state.checkpoint_keep = config.checkpoint().keep();
  state.checkpoints = options.checkpoints;
  if (!config.data().validation().empty()) {
    state.validation_every = config.validation().every_steps();
  }
  const int64_t every = state.validation_every;
  state.validate_start = every > 0 && !so_far.validated_last &&
                         (state.start_step % every == 0 || state.start_step == state.steps_total);
  state.checkpoint_to_load = options.checkpoint_to_load;
  state.config = options.config;
  if (config.recovery().has_lease_ms()) state.lease = config.recovery().lease_ms() * 1000;
  state.promises_ended = options.promises_ended;
  state.set_aside = options.set_aside;
  state.join_deadline = options.join_deadline_ms * 1000;
  return state;
}

}  // namespace

class CoordinatorServer::Impl {
 public:
  explicit Impl(const CoordinatorServerOptions& options)
      : options_(options),
        secret_(NewSecret()),
        progress_(stderr, isatty(STDERR_FILENO) != 0, options.config->lr_schedule().steps()) {}

  ~Impl() {
    if (server_ != nullptr) server_->Stop();
  }

  Status Start() {
    RETURN_IF_ERROR(OpenFiles());
    RpcServerOptions server;
    server.bind_address = options_.bind_address;
    server.secret = secret_;
    RpcServerCallbacks callbacks;
    callbacks.connected = [this](ConnectionId id, const std::string&) {
      Apply(WorkerConnected{id});
    };
    callbacks.message = [this](ConnectionId id, uint16_t type, const std::string& payload) {
      OnMessage(id, type, payload);
    };
    callbacks.closed = [this](ConnectionId id, const Status& reason) {
      Apply(WorkerClosed{id, reason.message()});
    };
    ASSIGN_OR_RETURN(server_, RpcServer::Start(server, std::move(callbacks)));
    const std::string host = options_.advertise_host.empty() ? HostName() : options_.advertise_host;
    address_ = StrCat(host.find(':') == std::string::npos ? host : StrCat("[", host, "]"), ":",
                      server_->port());
    RETURN_IF_ERROR(WriteEndpoint(EndpointPath(options_.run_dir), {address_, secret_}));
    server_->RunAfter(0, [this] { OnTick(); });
    return OkStatus();
  }

  const std::string& address() const { return address_; }
  const std::string& secret() const { return secret_; }
  uint64_t generation() const { return generation_; }

  void RequestStop(const std::string& reason) {
    server_->RunAfter(0, [this, reason] { Apply(StopRequested{reason}); });
  }

  Status Wait() {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return verdict_.has_value(); });
    }
    server_->Stop();  // after it nobody else touches the files
    metrics_.Sync();
    events_.Sync();
    unlink(EndpointPath(options_.run_dir).c_str());
    return StatusOf(*verdict_);
  }

 private:
  Status OpenFiles() {
    if (options_.config->lr_schedule().steps() < options_.start_step) {
      return InvalidArgumentError(StrCat("lr_schedule.steps is ",
                                         options_.config->lr_schedule().steps(),
                                         ", the run has done ", options_.start_step, " already"));
    }
    ASSIGN_OR_RETURN(lock_, RunLock::Take(options_.run_dir));
    ASSIGN_OR_RETURN(const std::vector<JournalRecord> records, ReadJournal(options_.run_dir));
    const JournalSummary before = Summarize(records);
    generation_ = before.generation + 1;
    ASSIGN_OR_RETURN(const MetricsSoFar so_far, CutMetrics(options_.run_dir, options_.start_step));
    RETURN_IF_ERROR(journal_.Open(options_.run_dir));
    NoteCheckpoints(before.checkpoints);
    RETURN_IF_ERROR(metrics_.Open(options_.run_dir + "/metrics.jsonl"));
    RETURN_IF_ERROR(events_.Open(options_.run_dir + "/events.jsonl"));
    tensorboard_.Open(options_.run_dir + "/tensorboard", options_.clock->WallSeconds(),
                      generation_);
    state_ = std::make_unique<CoordinatorState>(StateOptions(options_, generation_, so_far));
    return OkStatus();
  }

  // The journal learns what is there now: checkpoints were set aside, or the run has another store.
  void NoteCheckpoints(const std::vector<int64_t>& noted) {
    const auto note = [this](const char* kind, const std::vector<int64_t>& in,
                             const std::vector<int64_t>& not_in, const char* reason) {
      for (const int64_t step : in) {
        if (std::binary_search(not_in.begin(), not_in.end(), step)) continue;
        journal_.Write({kind, generation_, step, reason});
      }
    };
    note("checkpoint_deleted", noted, options_.checkpoints, "no longer in checkpoint.store");
    note("checkpoint", options_.checkpoints, noted, "found in checkpoint.store");
  }

  // All below runs on the server's thread.

  void OnTick() {
    Apply(Tick{});
    if (state_->stage() != CoordinatorState::Stage::kEnded) {
      server_->RunAfter(CoordinatorOptions().tick / 1000, [this] { OnTick(); });
    }
  }

  void OnMessage(ConnectionId id, uint16_t type, const std::string& payload) {
    const auto message = std::make_shared<proto::ToCoordinator>();
    if (type != kEnvelope || !message->ParseFromString(payload)) {
      LOG(ERROR) << "connection " << id << " sent " << payload.size()
                 << " bytes that are no message: closed";
      server_->Close(id, "no message");
      return;
    }
    Apply(WorkerMessage{id, message});
  }

  void Apply(const Input& input) {
    for (const Effect& effect : state_->Apply(input, options_.clock->NowMicros())) {
      std::visit([this](const auto& each) { Do(each); }, effect);
    }
  }

  void Do(const SendTo& effect) { server_->Send(effect.worker, kEnvelope, *effect.message); }

  void Do(const CloseWorker& effect) {
    LOG(INFO) << "closing connection " << effect.worker << ": " << effect.reason;
    server_->Close(effect.worker, effect.reason);
  }

  void Do(const WriteEvent& effect) {
    const Event& event = effect.event;
    events_.Append(EventLine(event, options_.clock->WallSeconds()));
    if (event.kind == "stop") events_.Sync();
    // At once: mpirun kills what is left of the job about a second after a rank has died.
    if (event.kind == "stop" && event.exit_code.value_or(0) == ExitCode(UnavailableError(""))) {
      progress_.Say("trireme train: " + event.reason);
    }
    if (!options_.progress) return;
    // worker_lost and corruption repeat in the line of the stop that they cause.
    if (event.kind == "checkpoint_failed" || event.kind == "promise_ended" ||
        event.kind == "hang" || event.kind == "straggler" || event.kind == "spike" ||
        (event.kind == "worker_lost" && state_->stage() == CoordinatorState::Stage::kRunning)) {
      progress_.Say(StrCat("step ", event.step, ": ", event.kind, ": ", event.reason));
    }
  }

  void Do(const WriteMetrics& effect) {
    const double wall = options_.clock->WallSeconds();
    if (const auto* validation = std::get_if<ValidationMetrics>(&effect.line)) {
      metrics_.Append(MetricsLine(*validation));
      tensorboard_.Write(wall, validation->step,
                         {{"validation_loss", validation->loss},
                          {"validation_perplexity", std::exp(validation->loss)}});
      if (options_.progress) {
        // Whatever the sign of what is not a number.
        const double loss =
            std::isnan(validation->loss) ? std::fabs(validation->loss) : validation->loss;
        progress_.Say(StrCat("step ", validation->step, "  validation loss ", loss, "  perplexity ",
                             std::exp(loss)));
      }
      return;
    }
    const auto& step = std::get<StepMetrics>(effect.line);
    metrics_.Append(MetricsLine(step));
    std::vector<std::pair<std::string, double>> scalars = {
        {"loss", step.loss},
        {"grad_norm", step.grad_norm},
        {"lr", step.lr},
        {"tokens", static_cast<double>(step.tokens)},
        {"step_ms", step.step_ms},
        {"tokens_per_second", step.tokens_per_second},
        {"memory_bytes_max", static_cast<double>(step.memory_bytes_max)}};
    if (step.mfu) scalars.emplace_back("mfu", *step.mfu);
    tensorboard_.Write(wall, step.step, scalars);
    if (options_.progress) progress_.Step(step, options_.clock->NowMicros());
  }

  void Do(const WriteJournal& effect) { journal_.Write(effect.record); }

  void Do(const CommitManifest& effect) {
    storage_.Run([this, effect] {
      Status status;
      if (options_.storage.commit_manifest) {
        status = options_.storage.commit_manifest(effect.step, effect.parts);
      }
      Answer(StorageResult::Operation::kCommit, effect.step, status);
    });
  }

  void Do(const RemoveCheckpoint& effect) {
    storage_.Run([this, effect] {
      Status status;
      if (options_.storage.delete_checkpoint)
        status = options_.storage.delete_checkpoint(effect.step);
      Answer(StorageResult::Operation::kDelete, effect.step, status);
    });
  }

  void Do(const EndRun& effect) {
    const std::lock_guard lock(mutex_);
    verdict_ = effect.verdict;
    changed_.notify_all();
  }

  // On the storage thread.
  void Answer(StorageResult::Operation operation, int64_t step, const Status& status) {
    const std::string error =
        status.ok() || !status.message().empty() ? status.message() : "it failed";
    server_->RunAfter(0, [this, operation, step, error] {
      Apply(StorageResult{operation, step, error});
    });
  }

  const CoordinatorServerOptions options_;
  const std::string secret_;
  std::string address_;
  uint64_t generation_ = 0;
  std::unique_ptr<RunLock> lock_;
  Journal journal_;
  LineFile metrics_;
  LineFile events_;
  TensorBoardFile tensorboard_;
  ProgressLine progress_;
  std::unique_ptr<CoordinatorState> state_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Verdict> verdict_;
  std::unique_ptr<RpcServer> server_;
  StorageThread storage_;  // ends first: its work answers through server_
};

CoordinatorServer::CoordinatorServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
CoordinatorServer::~CoordinatorServer() = default;

Result<std::unique_ptr<CoordinatorServer>> CoordinatorServer::Start(
    const CoordinatorServerOptions& options) {
  CHECK(options.config != nullptr);
  auto impl = std::make_unique<Impl>(options);
  RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<CoordinatorServer>(new CoordinatorServer(std::move(impl)));
}

std::string CoordinatorServer::address() const { return impl_->address(); }
std::string CoordinatorServer::secret() const { return impl_->secret(); }
uint64_t CoordinatorServer::generation() const { return impl_->generation(); }
void CoordinatorServer::RequestStop(const std::string& reason) { impl_->RequestStop(reason); }
Status CoordinatorServer::Wait() { return impl_->Wait(); }

}  // namespace trireme
