// trireme train: the coordinator and its workers, as processes under mpirun or as threads of one.
#include <glog/logging.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <future>
#include <iostream>
#include <memory>
#include <numeric>
#include <thread>

#include "cli/command.h"
#include "cli/config_loader.h"
#include "cli/model_options.h"
#include "cli/run_options.h"
#include "cli/signal_listener.h"
#include "cli/training_run.h"
#include "cluster/base/fault.h"
#include "cluster/base/version.h"
#include "cluster/comm/communicator.h"
#include "cluster/device/gpu_info.h"
#include "coordinator/coordinator_server.h"
#include "proto/config.pb.h"
#include "storage/checkpoint_reader.h"
#include "storage/checkpoint_writer.h"
#include "storage/object_store.h"
#include "worker/kernels/matmul.h"
#include "worker/training/stop_requests.h"
#include "worker/training/training_worker.h"

namespace trireme {
namespace {

struct TrainCommand {
  RunFileOptions file;
  bool fresh = false;
};

// What rank 0 tells the other processes before they meet it over TCP. Plain bytes.
struct Bootstrap {
  int32_t bf16 = 0;
  int32_t on_gpu = 0;
  int32_t threads = 0;
  int32_t exit_code = -1;    // not negative: there is nothing to run, leave with it
  int32_t is_preparing = 0;  // all else is still to come
  char address[256] = "";
  char secret[256] = "";
  char log_dir[1024] = "";
};

void LogTo(const std::string& run_dir, int rank) {
  const std::string dir = run_dir + "/log";
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  const std::string stem = dir + "/rank_" + std::to_string(rank) + ".";
  for (int severity : {google::GLOG_INFO, google::GLOG_WARNING, google::GLOG_ERROR}) {
    google::SetLogDestination(severity, severity == google::GLOG_INFO ? stem.c_str() : "");
    google::SetLogSymlink(severity, "");
  }
  FLAGS_minloglevel = google::GLOG_INFO;
  FLAGS_stderrthreshold = google::GLOG_FATAL;
  FLAGS_logtostderr = false;
  // A file begins with its first line.
  char host[256] = {};
  gethostname(host, sizeof(host) - 1);
  LOG(INFO) << ProgramName() << ", rank " << rank << (rank == 0 ? ", coordinator" : "") << ", host "
            << host << ", pid " << getpid();
}

StorageHooks MakeStorageHooks(const TrainingRun& run, const uint64_t* generation) {
  StorageHooks hooks;
  const std::shared_ptr<const proto::Config> config = run.config;
  const int64_t parent_step = run.checkpoint.empty() ? -1 : run.start_step;
  const std::vector<std::string> train_data = run.train_data;
  const PlannedFault fault = FaultFromEnvironment().value();  // Prepare has refused a bad one
  hooks.commit_manifest = [=](int64_t step, const std::vector<std::pair<int, std::string>>& parts) {
    ASSIGN_OR_RETURN(const auto store, OpenStore(config->checkpoint().store()));
    CheckpointFacts facts;
    facts.step = step;
    facts.generation = static_cast<int64_t>(*generation);
    facts.parent_step = parent_step;
    facts.config = config.get();
    facts.product_library = MatMulLibrary();
    facts.sum_leaves = std::stoll(config->batch().sum_leaves());
    facts.samples = step * config->batch().sequences();
    facts.tokens = facts.samples * config->data().sequence_length();
    facts.label_tokens = facts.tokens;
    facts.train_data = train_data;
    facts.created = FormatUtc(RealClock().WallSeconds());
    std::vector<std::string> all;
    for (const auto& part : parts) all.push_back(part.second);
    FaultPoint(fault, 0, step, "manifest.before_commit");
    RETURN_IF_ERROR(CommitCheckpoint(*store, facts, all));
    FaultPoint(fault, 0, step, "manifest.after_commit");
    return OpenVerifiedCheckpoint(*store, step).status();
  };
  hooks.delete_checkpoint = [=](int64_t step) {
    ASSIGN_OR_RETURN(const auto store, OpenStore(config->checkpoint().store()));
    return DeleteCheckpoint(*store, step);
  };
  return hooks;
}

// The coordinator of a prepared run, with what its hooks refer to.
struct Coordinator {
  uint64_t generation = 0;
  std::unique_ptr<CoordinatorServer> server;

  static Result<std::unique_ptr<Coordinator>> Start(const TrainingRun& run, int spares,
                                                    bool one_host) {
    auto coordinator = std::make_unique<Coordinator>();
    ASSIGN_OR_RETURN(const auto store, OpenStore(run.config->checkpoint().store()));
    RETURN_IF_ERROR(DiscardCheckpointsAfter(*store, run.start_step));
    RETURN_IF_ERROR(SweepCheckpoints(*store));
    CoordinatorServerOptions options;
    options.config = run.config;
    options.run_dir = run.config->run().dir();
    options.spares = spares;
    options.start_step = run.start_step;
    options.label_tokens = run.label_tokens;
    options.checkpoint_to_load = run.checkpoint;
    options.checkpoints = run.checkpoints;
    options.promises_ended = run.promises_ended;
    options.set_aside = run.set_aside;
    options.storage = MakeStorageHooks(run, &coordinator->generation);
    if (one_host) options.bind_address = options.advertise_host = "127.0.0.1";
    ASSIGN_OR_RETURN(coordinator->server, CoordinatorServer::Start(options));
    coordinator->generation = coordinator->server->generation();
    return coordinator;
  }
  Endpoint endpoint() const { return {server->address(), server->secret()}; }
};

// What a rank tells the others of its host. Plain bytes.
struct HostFacts {
  char name[64] = "";
  int32_t gpus = 0;
  char why_no_gpu[188] = "";
};

HostFacts ThisHost() {
  HostFacts facts;
  gethostname(facts.name, sizeof(facts.name) - 1);
  const auto gpus = Gpus();
  if (gpus.ok()) {
    facts.gpus = static_cast<int32_t>(gpus->size());
  } else {
    std::strncpy(facts.why_no_gpu, gpus.status().message().c_str(), sizeof(facts.why_no_gpu) - 1);
  }
  return facts;
}

// hosts: of ranks from 1; a single one: of all.
Status CheckDevices(const TrainingRun& run, const std::vector<HostFacts>& hosts) {
  if (run.config->device() != "cuda") return OkStatus();
  for (size_t i = 0; i < hosts.size(); ++i) {
    if (hosts[i].gpus > 0) continue;
    return InvalidArgumentError(StrCat("device: cuda: rank ", i + 1, " on ", hosts[i].name,
                                       " has no GPU: ", hosts[i].why_no_gpu,
                                       "; expected a GPU for every worker, or device: cpu"));
  }
  return OkStatus();
}

Status CheckWorkers(const TrainingRun& run, int processes) {
  const int64_t workers = WorkerCount(*run.config), spares = run.config->recovery().spares();
  if (processes - 1 >= workers + spares) return OkStatus();
  const proto::LayoutConfig& layout = run.config->layout();
  const std::string of_spares =
      spares == 0 ? "" : StrCat(", ", spares, spares == 1 ? " spare" : " spares");
  return InvalidArgumentError(StrCat("layout data ", layout.data(), " x tensor ", layout.tensor(),
                                     " x pipeline ", layout.pipeline(), " = ", workers, " workers",
                                     of_spares, " and 1 coordinator: expected mpirun -n ",
                                     workers + spares + 1, ", found ", processes));
}

void TellFinished(const TrainingRun& run) {
  const int64_t steps = run.config->lr_schedule().steps();
  std::cout << run.config->run().dir();
  if (run.start_step == steps) {
    std::cout << ": finished, step " << steps << " of " << steps << " is done\n";
  } else {  // steps were lowered
    std::cout << ": finished: step " << run.start_step << " is done, and lr_schedule.steps is "
              << steps << "\n";
  }
}

// Prepares, and says what there is to say; nothing to run when finished.
Result<TrainingRun> Prepare(const TrainCommand& command, int processes,
                            const std::vector<HostFacts>& hosts) {
  RETURN_IF_ERROR(FaultFromEnvironment().status());
  const bool gpus = std::any_of(hosts.begin(), hosts.end(), [](const auto& h) { return h.gpus; });
  ASSIGN_OR_RETURN(TrainingRun run, PrepareTraining(command.file, command.fresh, gpus));
  for (const std::string& line : run.warnings) std::cerr << "trireme train: " << line << "\n";
  TellSetAside("train", run.set_aside);
  if (run.finished) {
    TellFinished(run);
    return run;
  }
  if (processes > 0) RETURN_IF_ERROR(CheckWorkers(run, processes));
  RETURN_IF_ERROR(CheckDevices(run, hosts));
  RETURN_IF_ERROR(TakeCheckpointAlong(run));
  if (!run.copy_from.empty()) {
    std::cerr << "trireme train: checkpoint.store is now " << run.config->checkpoint().store()
              << ": step " << run.start_step << " was copied there from " << run.copy_from << "\n";
  }
  RETURN_IF_ERROR(WriteRunFolder(run));
  return run;
}

// How the run ended; without a message where the coordinator has said it already.
Status AwaitVerdict(CoordinatorServer* server) {
  const Status status = server->Wait();
  return status.code() == StatusCode::kUnavailable ? Status(status.code(), "") : status;
}

// One process: the coordinator on this thread, every worker on one of its own.
Status TrainInThreads(const TrainCommand& command) {
  ASSIGN_OR_RETURN(const TrainingRun run, Prepare(command, 0, {ThisHost()}));
  if (run.finished) return OkStatus();
  LogTo(run.config->run().dir(), 0);
  ASSIGN_OR_RETURN(const auto coordinator, Coordinator::Start(run, 0, true));
  StopRequests stop;
  stop.SetHandler([&](const std::string& reason) { coordinator->server->RequestStop(reason); });
  const SignalListener signals(&stop);
  const auto workers = static_cast<int>(WorkerCount(*run.config));
  auto world = ThreadWorld(workers + 1);
  std::vector<std::thread> threads;
  for (int rank = 1; rank <= workers; ++rank) {
    threads.emplace_back([&, rank] {
      TrainingWorkerOptions options;
      options.coordinator = coordinator->endpoint();
      options.transport = world[rank].get();
      options.workers_on_host = workers;
      options.worker_on_host = rank - 1;
      options.on_gpu = run.config->device() == "cuda";
      options.threads = static_cast<int>(run.config->threads());
      options.bf16 = run.config->precision().compute() == "bfloat16";
      const Status status = RunTrainingWorker(options);
      if (!status.ok()) LOG(INFO) << "worker " << rank << ": " << status.message();
    });
  }
  const Status verdict = AwaitVerdict(coordinator->server.get());
  for (std::thread& thread : threads) thread.join();
  stop.SetHandler({});
  return verdict;
}

Status Await(Work work) {
  const Status status = work.Wait(120'000'000);
  if (!status.ok()) work.Abandon();
  return status;
}

// All processes of the job meet before anything else: who is where with what, then what rank 0 has
// to say.
class Meeting {
 public:
  explicit Meeting(CommunicatorFactory* world) : world_(world) {
    std::vector<int> all(world->world_size());
    std::iota(all.begin(), all.end(), 0);
    group_ = world->Create("bootstrap", all, 1, 0);
  }

  Status ShareHosts() {
    constexpr auto kBytes = static_cast<int64_t>(sizeof(HostFacts));
    hosts_.resize(world_->world_size());
    hosts_[world_->world_rank()] = ThisHost();
    std::vector<Piece> pieces;
    for (int rank = 0; rank < world_->world_size(); ++rank) {
      pieces.push_back({rank, rank * kBytes, (rank + 1) * kBytes});
    }
    return Await(group_->AllGather(
        {hosts_.data(), static_cast<int64_t>(hosts_.size()) * kBytes, DType::kU8}, pieces));
  }
  Status Share(Bootstrap* bootstrap) {
    return Await(group_->Broadcast({bootstrap, sizeof(*bootstrap), DType::kU8}, 0));
  }

  // Of the workers, by rank from 1.
  std::vector<HostFacts> WorkerHosts() const { return {hosts_.begin() + 1, hosts_.end()}; }
  // Workers of this host with a rank below `end`.
  int WorkersOnThisHost(int end) const {
    int count = 0;
    for (int rank = 1; rank < end; ++rank) count += OnThisHost(rank);
    return count;
  }
  bool OneHost() const {
    for (int rank = 1; rank < world_->world_size(); ++rank) {
      if (std::string(hosts_[rank].name) != hosts_[0].name) return false;
    }
    return true;
  }

 private:
  bool OnThisHost(int rank) const {
    return std::string(hosts_[rank].name) == hosts_[world_->world_rank()].name;
  }

  CommunicatorFactory* world_;
  std::unique_ptr<Communicator> group_;
  std::vector<HostFacts> hosts_;
};

// Verifying checkpoints, or copying one to another store, takes as long as it takes: the others
// hear now and then that rank 0 is still at it.
Result<TrainingRun> PrepareInTouch(const TrainCommand& command, int processes, Meeting* meeting) {
  using std::chrono::milliseconds;
  auto run = std::async(std::launch::async,
                        [&] { return Prepare(command, processes, meeting->WorkerHosts()); });
  Bootstrap still;
  still.is_preparing = 1;
  for (milliseconds wait(10); run.wait_for(wait) != std::future_status::ready;) {
    const Status heard = meeting->Share(&still);
    if (!heard.ok()) {
      run.wait();
      return heard;
    }
    wait = std::min(2 * wait, milliseconds(10'000));
  }
  return run.get();
}

// Rank 0 of an MPI job.
Status TrainAsCoordinator(const TrainCommand& command, CommunicatorFactory* world,
                          Meeting* meeting) {
  Bootstrap bootstrap;
  auto run = PrepareInTouch(command, world->world_size(), meeting);
  std::unique_ptr<Coordinator> coordinator;
  Status status = run.status();
  if (run.ok() && !run->finished) {
    LogTo(run->config->run().dir(), 0);
    const auto spares = static_cast<int>(world->world_size() - 1 - WorkerCount(*run->config));
    auto started = Coordinator::Start(run.value(), spares, meeting->OneHost());
    status = started.status();
    if (started.ok()) {
      coordinator = std::move(started).value();
      const Endpoint endpoint = coordinator->endpoint();
      std::strncpy(bootstrap.address, endpoint.address.c_str(), sizeof(bootstrap.address) - 1);
      std::strncpy(bootstrap.secret, endpoint.secret.c_str(), sizeof(bootstrap.secret) - 1);
      const std::string dir = std::filesystem::absolute(run->config->run().dir());
      std::strncpy(bootstrap.log_dir, dir.c_str(), sizeof(bootstrap.log_dir) - 1);
    }
  }
  if (coordinator == nullptr) {
    bootstrap.exit_code = ExitCode(status);
    // Before the others know: mpirun ends the job as soon as one of them has left with an error.
    if (!status.ok()) std::cerr << "trireme train: " << status.message() << std::endl;
    status = Status(status.code(), "");
  }
  if (run.ok()) {
    bootstrap.bf16 = run->config->precision().compute() == "bfloat16";
    bootstrap.on_gpu = run->config->device() == "cuda";
    bootstrap.threads = static_cast<int32_t>(run->config->threads());
  }
  const Status shared = meeting->Share(&bootstrap);
  if (!status.ok() || coordinator == nullptr) return status;
  RETURN_IF_ERROR(shared);
  StopRequests stop;
  stop.SetHandler([&](const std::string& reason) { coordinator->server->RequestStop(reason); });
  const SignalListener signals(&stop);
  status = AwaitVerdict(coordinator->server.get());
  stop.SetHandler({});
  return status;
}

// A status without a message that ends the process with this code.
Status WithExitCode(int exit_code) {
  for (const StatusCode code :
       {StatusCode::kOk, StatusCode::kInvalidArgument, StatusCode::kDataLoss, StatusCode::kStorage,
        StatusCode::kUnavailable, StatusCode::kStopped}) {
    if (ExitCode(Status(code, "")) == exit_code) return Status(code, "");
  }
  return Status(StatusCode::kInternal, "");
}

// Any other rank. What goes wrong is told to the coordinator, whose one line the user reads.
Status TrainAsWorker(CommunicatorFactory* world, Meeting* meeting) {
  Bootstrap bootstrap;
  do {
    RETURN_IF_ERROR(meeting->Share(&bootstrap));
  } while (bootstrap.is_preparing != 0);
  if (bootstrap.exit_code >= 0) return WithExitCode(bootstrap.exit_code);
  LogTo(bootstrap.log_dir, world->world_rank());
  StopRequests stop;
  const SignalListener signals(&stop);
  TrainingWorkerOptions options;
  options.coordinator = {bootstrap.address, bootstrap.secret};
  options.transport = world;
  options.stop = &stop;
  options.workers_on_host = meeting->WorkersOnThisHost(world->world_size());
  options.worker_on_host = meeting->WorkersOnThisHost(world->world_rank());
  options.on_gpu = bootstrap.on_gpu != 0;
  options.threads = bootstrap.threads;
  options.bf16 = bootstrap.bf16 != 0;
  const Status status = RunTrainingWorker(options);
  if (!status.ok()) LOG(INFO) << "leaving: " << status.message();
  return Status(status.code(), "");
}

// After a fault MPI_Finalize may wait for the dead: leave without it.
[[noreturn]] void LeaveWithoutFinalize(const Status& status) {
  google::FlushLogFiles(google::GLOG_INFO);
  std::cout.flush();
  _exit(ExitCode(status));
}

Status RunTrain(const TrainCommand& command) {
  // Before any thread starts: signals are taken by one listener.
  SignalListener::Block();
  const LaunchInfo launch = DetectLaunch();
  if (!launch.launched) return TrainInThreads(command);
  ASSIGN_OR_RETURN(const auto world, MpiWorld());
  Meeting meeting(world.get());
  RETURN_IF_ERROR(meeting.ShareHosts());
  const Status status = world->world_rank() == 0
                            ? TrainAsCoordinator(command, world.get(), &meeting)
                            : TrainAsWorker(world.get(), &meeting);
  if (status.code() == StatusCode::kUnavailable || status.code() == StatusCode::kDeadlineExceeded) {
    LeaveWithoutFinalize(status);
  }
  return status;
}

std::function<Status()> SetUpTrain(CommandLine& line) {
  auto command = std::make_shared<TrainCommand>();
  AddRunFileOptions(line, &command->file, true);
  line.Flag("--fresh", command->fresh, "refuse a run.dir that is not empty");
  return [command] { return RunTrain(*command); };
}

const RegisterCommand kTrainCommand({"train", "train a model: under mpirun, or in one process",
                                     "mpirun -n 5 trireme train examples/quickstart.yaml",
                                     SetUpTrain});

}  // namespace
}  // namespace trireme
