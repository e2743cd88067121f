// The life of a worker, in ten lines:
//   1. join the coordinator, receive the plan and a place in the mesh
//   2. load initial weights, a model, or a checkpoint: this rank's boxes alone
//   3. for each step the coordinator has granted:
//   4.   read the microbatches of this data rank
//   5.   pipeline: forward and backward of each; buckets of gradients are reduced meanwhile
//   6.   finish the reduction; one global norm, which exists only when every gradient is reduced
//   7.   update out of place, gather weights (ZeRO), commit
//   8.   report losses, norm, times
//   9.   validate and checkpoint where ordered
//  10. leave when told to
#include "worker/training/training_worker.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string_view>
#include <thread>
#include <vector>

#include "cluster/device/buffer.h"
#include "cluster/device/stream.h"
#include "parallelism/gradient_store.h"
#include "parallelism/pipeline_executor.h"
#include "parallelism/process_groups.h"
#include "parallelism/schedule.h"
#include "proto/config.pb.h"
#include "proto/control.pb.h"
#include "worker/model/decoder_stage.h"
#include "worker/optimizer/adamw.h"
#include "worker/optimizer/lr_schedule.h"
#include "worker/optimizer/state_checksum.h"
#include "worker/training/checkpoint_io.h"
#include "worker/training/control_client.h"
#include "worker/training/data_feed.h"
#include "worker/training/run_setup.h"
#include "worker/training/stop_requests.h"
#include "worker/training/training_step.h"
#include "worker/training/worker_device.h"

namespace trireme {
namespace {

// How often the coordinator compares what replicas hold.
constexpr int64_t kChecksumEverySteps = 10;
// A neighbour that computes may be waited for; whether it still lives is the coordinator's to say,
// whose word ends the wait (on_abort revokes the groups).
constexpr Micros kPeerTimeout = int64_t{24} * 3600 * 1'000'000;

// TRIREME_CUDA_GRAPHS=0 launches every kernel by itself; so do runs with a fault, whose named
// points are in what a replay does not come through.
bool MayRecordSteps() {
  const char* graphs = std::getenv("TRIREME_CUDA_GRAPHS");
  return std::getenv("TRIREME_FAULT") == nullptr &&
         (graphs == nullptr || std::string_view(graphs) != "0");
}

// Validation takes a few microbatches at a time: their token buffers stay small.
constexpr size_t kValidationAtOnce = 16;

class TrainingWorker {
 public:
  TrainingWorker(const TrainingWorkerOptions& options, const proto::Plan& plan,
                 ControlClient* client, WorkerDevice* device, ProcessGroups* groups)
      : options_(options),
        plan_(plan),
        config_(plan.config()),
        client_(client),
        device_(device),
        stream_(device->stream()),
        groups_(groups) {}

  Status SetUp();
  Status Train();

 private:
  Status Step(int64_t step);
  Status Validate(int64_t step);
  Status SaveCheckpoint(int64_t step);
  void Report(int64_t step, double norm, double lr, Micros started);
  uint64_t ReplicatedChecksum();
  void FlipABit();  // as a fault that is planned has it
  std::vector<MicrobatchId> ValidationMicrobatches() const;
  bool ReportsLosses() const {
    return groups_->Index(Axis::kPipeline) == groups_->mesh().size(Axis::kPipeline) - 1 &&
           groups_->Index(Axis::kTensor) == 0;
  }
  int64_t MemoryBytes() const;

  const TrainingWorkerOptions& options_;
  const proto::Plan& plan_;
  const proto::Config& config_;
  ControlClient* client_;
  WorkerDevice* device_;
  Stream* stream_;
  ProcessGroups* groups_;
  ModelShape shape_;
  double flop_per_step_ = 0;
  std::unique_ptr<ShardedParameterStore> store_;
  std::unique_ptr<DataFeed> feed_;
  std::unique_ptr<DecoderStage> stage_;
  std::unique_ptr<PipelineExecutor> executor_;
  std::unique_ptr<TrainingStep> training_step_;
  int64_t step_ = 0;  // that is being computed
  LrSchedule schedule_;
};

Status TrainingWorker::SetUp() {
  const Mesh& mesh = groups_->mesh();
  ASSIGN_OR_RETURN(feed_, DataFeed::Open(config_));
  if (stream_->device() != DeviceKind::kCpu) {
    const int64_t of_step = MicrobatchesPerStep(config_) / mesh.size(Axis::kData);
    feed_->UsePinnedMemory(std::max<int64_t>(of_step, kValidationAtOnce));
  }
  ASSIGN_OR_RETURN(schedule_, LrSchedule::Create(config_.optimizer(), config_.lr_schedule()));
  shape_ = ModelShape::From(config_.model());
  const std::vector<ParameterSpec> specs =
      ParameterSpecs(shape_, mesh.size(Axis::kTensor), mesh.size(Axis::kPipeline));
  int64_t parameters = 0;
  for (const ParameterSpec& spec : specs) parameters += ElementCount(spec.shape);
  flop_per_step_ = TrainingFlopPerToken(shape_, parameters, config_.data().sequence_length()) *
                   static_cast<double>(feed_->step_label_tokens()) / mesh.size();

  const auto hook = [this](const char* phase, int microbatch) {
    client_->SetPhase(phase, microbatch);
  };
  StoreOptions store;
  store.zero_level = static_cast<int>(config_.layout().zero());
  store.types = WeightTypesOf(config_);
  store.microbatches = static_cast<int>(MicrobatchesPerStep(config_));
  store.leaves = std::stoi(config_.batch().sum_leaves());
  if (stream_->device() != DeviceKind::kCpu) store.bucket_bytes = kGpuBucketBytes;
  store.phase = hook;
  store_ = std::make_unique<ShardedParameterStore>(specs, groups_, stream_, store);

  StageOptions stage = StageOptionsFor(config_, mesh, groups_->rank());
  stage_ = std::make_unique<DecoderStage>(
      stage, specs, stream_, store_.get(), TensorGroup(groups_->Along(Axis::kTensor), kPeerTimeout),
      [this](MicrobatchId id) -> const Microbatch& { return feed_->Get(id); });

  ASSIGN_OR_RETURN(Schedule schedule,
                   ScheduleFor(config_, static_cast<int>(store_->microbatches().size())));
  PipelineOptions pipeline;
  pipeline.pipeline = groups_->Along(Axis::kPipeline);
  pipeline.stream = stream_;
  pipeline.timeout = kPeerTimeout;
  pipeline.phase = hook;
  executor_ = std::make_unique<PipelineExecutor>(std::move(schedule),
                                                 groups_->Index(Axis::kPipeline), pipeline);
  stage_->Reserve(executor_->live_microbatches());

  TrainingStepOptions step;
  step.stream = stream_;
  step.groups = groups_;
  step.store = store_.get();
  step.stage = stage_.get();
  step.executor = executor_.get();
  step.source = [this](MicrobatchId id) -> const Microbatch& { return feed_->Get(id); };
  step.clip_norm = config_.optimizer().clip_norm();
  step.seed = config_.run().seed();
  step.timeout = kPeerTimeout;
  step.phase = [this](const char* phase) { client_->SetPhase(phase); };
  step.meanwhile = [this] { feed_->ReadAhead(step_ + 1, store_->microbatches()); };
  step.record = MayRecordSteps();
  training_step_ = std::make_unique<TrainingStep>(std::move(step));

  if (groups_->rank() == 0) LOG(INFO) << "memory:\n" << MemoryTable();
  client_->SetPhase("wait for weights");
  RETURN_IF_ERROR(
      LoadState(config_, plan_.checkpoint(), store_->StateToLoad(), store_->specs(), *stream_));
  return store_->FinishLoad(plan_.start_step(), kPeerTimeout);
}

Status TrainingWorker::Train() {
  for (int64_t step = plan_.start_step() + 1;; ++step) {
    client_->SetPhase("wait for the coordinator");
    ASSIGN_OR_RETURN(const StepOrders orders, client_->AwaitBudget(step));
    if (orders.validate) RETURN_IF_ERROR(Validate(step - 1));
    if (orders.checkpoint) RETURN_IF_ERROR(SaveCheckpoint(step - 1));
    if (orders.stop) return OkStatus();
    RETURN_IF_ERROR(Step(step));
  }
}

Status TrainingWorker::Step(int64_t step) {
  const Micros started = RealClock().NowMicros();
  client_->SetPhase("data");
  step_ = step;
  RETURN_IF_ERROR(feed_->LoadStep(step, store_->microbatches()));
  feed_->Upload(stream_);
  const proto::OptimizerConfig& optimizer = config_.optimizer();
  AdamWStep adamw;
  adamw.lr = schedule_.At(step);
  adamw.beta1 = optimizer.betas(0);
  adamw.beta2 = optimizer.betas(1);
  adamw.eps = optimizer.eps();
  adamw.weight_decay = optimizer.weight_decay();
  adamw.t = step;
  ASSIGN_OR_RETURN(const double norm, training_step_->Run(adamw));
  store_->Commit(step);
  if (client_->FlipsABit(step)) FlipABit();
  Report(step, norm, adamw.lr, started);
  return OkStatus();
}

// A bit that flips in one replica stays there: its gradients become part of the others' sums, but
// the weights differ from then on. Now and then the coordinator compares.
uint64_t TrainingWorker::ReplicatedChecksum() {
  std::vector<ChecksumSlice> slices;
  int64_t first = 0;
  for (const Tensor& tensor : store_->Replicated()) {
    slices.push_back({tensor, first});
    first += tensor.elements();
  }
  return StateChecksum(*stream_, slices);
}

void TrainingWorker::FlipABit() {
  std::byte* weights = store_->Replicated().front().bytes_data();
  uint16_t some = 0;
  stream_->Copy(&some, weights, sizeof(some));
  stream_->Synchronize();
  some ^= 1;
  stream_->Copy(weights, &some, sizeof(some));
  stream_->Synchronize();
}

void TrainingWorker::Report(int64_t step, double norm, double lr, Micros started) {
  proto::StepReport report;
  report.set_step(step);
  const std::map<MicrobatchId, double> losses = stage_->TakeLosses();
  if (ReportsLosses()) {
    for (const auto& [microbatch, loss] : losses) {
      proto::LossPart* part = report.add_loss_parts();
      part->set_part(microbatch);
      part->set_loss_sum(loss);
      part->set_label_tokens(feed_->LabelTokens(microbatch));
    }
  }
  report.set_grad_norm(norm);
  if (step % kChecksumEverySteps == 0 && groups_->mesh().size(Axis::kData) > 1) {
    report.set_state_checksum(ReplicatedChecksum());
  }
  report.set_lr(lr);
  report.set_seconds(static_cast<double>(RealClock().NowMicros() - started) * 1e-6);
  report.set_memory_bytes(MemoryBytes());
  report.set_flop(flop_per_step_);
  client_->ReportStep(std::move(report));
}

std::vector<MicrobatchId> TrainingWorker::ValidationMicrobatches() const {
  std::vector<MicrobatchId> mine;
  const int64_t all = feed_->ValidationMicrobatches(config_.validation().batches());
  for (int64_t i = groups_->Index(Axis::kData); i < all; i += groups_->mesh().size(Axis::kData)) {
    mine.push_back(static_cast<MicrobatchId>(i));
  }
  return mine;
}

Status TrainingWorker::Validate(int64_t step) {
  client_->SetPhase("validate");
  proto::ValidationReport report;
  report.set_step(step);
  stage_->set_evaluation(true);
  const std::vector<MicrobatchId> mine = ValidationMicrobatches();
  for (size_t begin = 0; begin < mine.size(); begin += kValidationAtOnce) {
    const std::span<const MicrobatchId> some(mine.data() + begin,
                                             std::min(kValidationAtOnce, mine.size() - begin));
    RETURN_IF_ERROR(feed_->LoadValidation(some));
    feed_->Upload(stream_);
    RETURN_IF_ERROR(executor_->RunForwardOnly(*stage_, some));
    const std::map<MicrobatchId, double> losses = stage_->TakeLosses();
    if (!ReportsLosses()) continue;
    for (const auto& [microbatch, loss] : losses) {
      proto::LossPart* part = report.add_loss_parts();
      part->set_part(microbatch);
      part->set_loss_sum(loss);
      part->set_label_tokens(feed_->LabelTokens(microbatch));
    }
  }
  stage_->set_evaluation(false);
  client_->ReportValidation(report);
  return OkStatus();
}

Status TrainingWorker::SaveCheckpoint(int64_t step) {
  client_->SetPhase("checkpoint");
  // Who is out of touch may have been given up, and others may go on from an older checkpoint.
  RETURN_IF_ERROR(client_->AwaitLease());
  proto::ChunkReport report;
  report.set_step(step);
  const Result<std::string> part =
      WriteCheckpointPart(config_, step, client_->generation(), groups_->rank(),
                          store_->StateToSave(), store_->specs(), *stream_);
  if (part.ok()) {
    report.set_manifest_part(part.value());
  } else {
    report.set_error(part.status().message());
    report.set_exit_code(ExitCode(part.status()));
  }
  client_->ReachFaultPoint(step, "checkpoint.after_chunks");
  client_->ReportChunks(report);
  // What was written must not change before it is in place; a checkpoint that failed does not stop
  // training, the coordinator has told the user.
  client_->SetPhase("wait for the manifest");
  const Status outcome = client_->AwaitCheckpoint(step);
  if (!outcome.ok()) LOG(WARNING) << "checkpoint of step " << step << ": " << outcome.message();
  return OkStatus();
}

int64_t TrainingWorker::MemoryBytes() const {
  return device_->MemoryBytesMax() / WorkersOnDevice(plan_, groups_->rank());
}

proto::Join MakeJoin(int rank, bool bf16, WorkerDevice* device) {
  proto::Join join;
  char host[256] = "";
  gethostname(host, sizeof(host) - 1);
  join.set_rank(rank);
  join.set_pid(getpid());
  join.set_host(host);
  join.set_incarnation(static_cast<uint64_t>(RealClock().NowMicros()));
  device->Describe(bf16, &join);
  return join;
}

// A worker that wants a GPU and has none joins with what it has: the coordinator refuses it, and
// the user reads why in one place.
std::unique_ptr<WorkerDevice> OpenDevice(const TrainingWorkerOptions& options) {
  if (options.on_gpu) {
    auto gpu = WorkerDevice::OpenGpu(options.worker_on_host);
    if (gpu.ok()) return std::move(gpu).value();
    LOG(ERROR) << gpu.status().message();
  }
  return WorkerDevice::Cpu(options.threads, options.workers_on_host);
}

HostMap HostsOf(const proto::Plan& plan, int size, uint64_t generation) {
  HostMap hosts;
  hosts.generation = generation;
  hosts.world_rank_of.assign(size, -1);
  for (const proto::Member& member : plan.members()) {
    if (member.place() >= 0) hosts.world_rank_of[member.place()] = member.rank();
  }
  return hosts;
}

// Hands this process' signals to the coordinator while the client lives.
class StopHandler {
 public:
  StopHandler(StopRequests* stop, ControlClient* client) : stop_(stop) {
    if (stop_ == nullptr) return;
    stop_->SetHandler([client](const std::string& reason) { client->RequestStop(reason); });
  }
  ~StopHandler() {
    if (stop_ != nullptr) stop_->SetHandler({});
  }

 private:
  StopRequests* stop_;
};

}  // namespace

Status RunTrainingWorker(const TrainingWorkerOptions& options) {
  const int rank = options.transport->world_rank();
  ControlClientOptions control;
  control.coordinator = options.coordinator;
  // The client may learn of an abort while this thread waits for a peer: the groups end the wait.
  struct Interrupt {
    std::mutex mutex;
    ProcessGroups* groups = nullptr;
    Status why;
  };
  auto interrupt = std::make_shared<Interrupt>();
  control.on_abort = [interrupt](const Status& why) {
    std::lock_guard lock(interrupt->mutex);
    interrupt->why = why;
    if (interrupt->groups != nullptr) interrupt->groups->Revoke(why.message());
  };
  const std::unique_ptr<WorkerDevice> device = OpenDevice(options);
  ASSIGN_OR_RETURN(std::unique_ptr<ControlClient> client,
                   ControlClient::Connect(control, MakeJoin(rank, options.bf16, device.get())));
  const StopHandler stop(options.stop, client.get());
  const proto::Plan& plan = client->plan();
  if (plan.place() < 0) return client->Finish();  // a parked spare

  const proto::LayoutConfig& layout = plan.config().layout();
  const Mesh mesh(static_cast<int>(layout.data()), static_cast<int>(layout.tensor()),
                  static_cast<int>(layout.pipeline()));
  const auto transport = device->Transport(plan, options.transport);
  if (!transport.ok()) {
    client->Fail(transport.status());
    return transport.status();
  }
  ProcessGroups groups(transport.value(), mesh, HostsOf(plan, mesh.size(), client->generation()),
                       plan.place(), options.transport);
  Status status;
  {
    std::lock_guard lock(interrupt->mutex);
    interrupt->groups = &groups;
    status = interrupt->why;
  }
  std::unique_ptr<TrainingWorker> worker;
  if (status.ok()) {
    worker = std::make_unique<TrainingWorker>(options, plan, client.get(), device.get(), &groups);
    status = worker->SetUp();
    if (status.ok()) status = worker->Train();
  }
  {
    std::lock_guard lock(interrupt->mutex);
    interrupt->groups = nullptr;
    // What the coordinator said explains an interrupted wait better than the wait itself.
    if (!status.ok() && !interrupt->why.ok()) status = interrupt->why;
  }
  if (status.ok()) return client->Finish();
  // Told before the worker's memory goes: freeing a GPU's waits for kernels, and those for peers
  // until their groups have ended.
  client->Fail(status);
  groups.Revoke(status.message());
  return status;
}

}  // namespace trireme
