#include "tests/harness/training_harness.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <thread>

#include "cluster/base/rng.h"
#include "cluster/comm/staged_communicator.h"
#include "parallelism/pipeline_executor.h"
#include "storage/element_conversion.h"
#include "worker/kernels/cross_entropy.h"
#include "worker/training/run_setup.h"
#include "worker/training/training_step.h"

namespace trireme {
namespace {

constexpr Micros kTimeout = 120'000'000;

int64_t LabelTokens(const HarnessBatch& batch) {
  return std::count_if(batch.labels.begin(), batch.labels.end(),
                       [](int32_t label) { return label != kNoLabel; });
}

// The harness' batches as the stage wants them.
class Batches {
 public:
  Batches(const HarnessOptions& options, Stream* stream) : batches_(options.microbatches) {
    const TokenShape tokens = options.tokens;
    int64_t labels = 0;
    for (const HarnessBatch& batch : batches_) labels += LabelTokens(batch);
    positions_.resize(tokens.tokens());
    for (int64_t i = 0; i < tokens.tokens(); ++i) positions_[i] = i % tokens.length;
    for (HarnessBatch& batch : batches_) {
      Microbatch data;
      const auto place = [&](std::vector<int32_t>& values) {
        const Shape shape = {tokens.batch, tokens.length};
        if (stream->device() == DeviceKind::kCpu) return Tensor(values.data(), DType::kI32, shape);
        Buffer& copy = copies_.emplace_back(tokens.tokens() * 4, stream->device());
        stream->Copy(copy.data(), values.data(), copy.bytes());
        return copy.AsTensor(DType::kI32, shape);
      };
      data.ids = place(batch.ids);
      data.labels = place(batch.labels);
      data.places.positions = place(batch.positions.empty() ? positions_ : batch.positions);
      if (!batch.document_starts.empty()) {
        data.places.document_starts = place(batch.document_starts);
      }
      data.gradient_scale = 1.0 / static_cast<double>(labels);
      data_.push_back(data);
    }
    stream->Synchronize();
  }
  const Microbatch& Get(MicrobatchId id) const { return data_[id]; }

 private:
  std::vector<HarnessBatch> batches_;
  std::vector<int32_t> positions_;
  std::vector<Buffer> copies_;  // on a GPU
  std::vector<Microbatch> data_;
};

// Puts the weight pass of every microbatch after the next backward pass, as zero-bubble schedules
// do.
Schedule Deferred(Schedule schedule) {
  for (auto& row : schedule.rows) {
    std::vector<Action> compute, weights;
    for (const Action& action : row) {
      (action.kind == ActionKind::kWeight ? weights : compute).push_back(action);
    }
    compute.insert(compute.end(), weights.begin(), weights.end());
    row = compute;
  }
  return schedule;
}

Status Load(const HarnessOptions& options, ShardedParameterStore* store, Stream* stream) {
  for (const StateTensor& tensor : store->StateToLoad()) {
    std::vector<float> values(tensor.tensor.elements(), 0.0f);
    if (tensor.kind == StateTensor::Kind::kWeight) {
      const ParameterSpec& spec = store->specs()[tensor.id];
      if (options.initial) {
        RETURN_IF_ERROR(options.initial(spec, tensor.box, values.data()));
      } else {
        FillInitialValues(spec, 1, tensor.box, values.data());
      }
    }
    std::vector<std::byte> converted(tensor.tensor.bytes());
    ConvertElements(DType::kF32, reinterpret_cast<const std::byte*>(values.data()),
                    tensor.tensor.dtype(), converted.data(), tensor.tensor.elements());
    stream->Copy(tensor.tensor.data(), converted.data(), tensor.tensor.bytes());
    stream->Synchronize();
  }
  return store->FinishLoad(0, kTimeout);
}

std::vector<float> Values(const Tensor& tensor, Stream* stream) {
  std::vector<std::byte> stored(tensor.bytes());
  stream->Copy(stored.data(), tensor.data(), tensor.bytes());
  stream->Synchronize();
  std::vector<float> values(tensor.elements());
  ConvertElements(tensor.dtype(), stored.data(), DType::kF32,
                  reinterpret_cast<std::byte*>(values.data()), tensor.elements());
  return values;
}

void CopyGradients(const std::vector<StateTensor>& state, const ShardedParameterStore& store,
                   Stream* stream, HarnessRank* result) {
  for (const StateTensor& tensor : state) {
    if (tensor.kind != StateTensor::Kind::kWeight) continue;
    const Tensor gradient = store.ReducedGradient(tensor.id);
    CHECK_EQ(gradient.elements(), tensor.tensor.elements()) << tensor.name;
    result->gradients.push_back({tensor.name, tensor.box, tensor.shape, Values(gradient, stream)});
  }
}

// The store as the model sees it, with every gradient told.
class ObservedStore final : public ParameterStore {
 public:
  ObservedStore(ShardedParameterStore* store, std::function<void()> on_gradient)
      : store_(store), on_gradient_(std::move(on_gradient)) {}

  Tensor Acquire(ParamId id) override { return store_->Acquire(id); }
  void Release(ParamId id) override { store_->Release(id); }
  GradientSink Gradients(ParamId id, int role, MicrobatchId microbatch) override {
    return store_->Gradients(id, role, microbatch);
  }
  void GradientDone(ParamId id, int role, MicrobatchId microbatch) override {
    on_gradient_();
    store_->GradientDone(id, role, microbatch);
  }

 private:
  ShardedParameterStore* store_;
  std::function<void()> on_gradient_;
};

Status Run(const HarnessOptions& options, Stream& stream, ProcessGroups* groups,
           HarnessRank* result) {
  const Mesh& mesh = groups->mesh();
  const std::vector<ParameterSpec> specs =
      ParameterSpecs(options.shape, options.tensor, options.pipeline);
  StoreOptions store_options;
  store_options.zero_level = options.zero;
  store_options.types = {options.compute, options.master};
  store_options.microbatches = static_cast<int>(options.microbatches.size());
  store_options.leaves = options.leaves;
  store_options.bucket_bytes = 1 << 14;  // several buckets, although the models are tiny
  const auto on_event = [&](const char* event) {
    if (options.on_event) options.on_event(groups->rank(), event);
  };
  store_options.phase = [&](const char* phase, int) { on_event(phase); };
  ShardedParameterStore store(specs, groups, &stream, store_options);
  ObservedStore observed(&store, [&] { on_event("gradient"); });
  const Batches batches(options, &stream);
  const StageOptions stage_options{
      options.shape, mesh, groups->rank(), options.tokens, options.compute, options.recompute};
  const auto source = [&](MicrobatchId id) -> const Microbatch& { return batches.Get(id); };
  DecoderStage stage(stage_options, specs, &stream, &observed,
                     TensorGroup(groups->Along(Axis::kTensor), kTimeout), source);
  ASSIGN_OR_RETURN(Schedule schedule, MakeSchedule(options.schedule, options.pipeline,
                                                   static_cast<int>(store.microbatches().size())));
  if (options.deferred) schedule = Deferred(std::move(schedule));
  RETURN_IF_ERROR(ValidateSchedule(schedule));
  PipelineExecutor executor(std::move(schedule), groups->Index(Axis::kPipeline),
                            {groups->Along(Axis::kPipeline), &stream, kTimeout, {}});
  stage.Reserve(executor.live_microbatches());
  TrainingStep training_step({&stream,
                              groups,
                              &store,
                              &stage,
                              &executor,
                              source,
                              options.clip_norm,
                              1,
                              kTimeout,
                              {},
                              {},
                              options.record});
  RETURN_IF_ERROR(Load(options, &store, &stream));
  const bool has_losses =
      groups->Index(Axis::kPipeline) == options.pipeline - 1 && groups->Index(Axis::kTensor) == 0;
  for (int step = 1; step <= options.steps; ++step) {
    AdamWStep adamw = options.adamw;
    if (options.lr) adamw.lr = options.lr(step);
    adamw.t = step;
    ASSIGN_OR_RETURN(const double norm, training_step.Run(adamw));
    if (step == 1) CopyGradients(store.StateToLoad(), store, &stream, result);
    store.Commit(step);
    result->norms.push_back(norm);
    for (const auto& [microbatch, loss] : stage.TakeLosses()) {
      if (has_losses) result->losses[{step, microbatch}] = loss;
    }
  }
  result->replayed = training_step.replayed();
  for (const StateTensor& tensor : store.StateToLoad()) {
    result->state.push_back(
        {tensor.name, tensor.box, tensor.shape, Values(tensor.tensor, &stream)});
  }
  return OkStatus();
}

}  // namespace

void Assemble(const std::vector<HarnessRank::Part>& parts, HarnessTensors* whole) {
  for (const HarnessRank::Part& part : parts) {
    std::vector<float>& values = (*whole)[part.name];
    values.resize(ElementCount(part.shape));
    CopyRegion(part.box, part.box, reinterpret_cast<const std::byte*>(part.values.data()),
               Box::Whole(part.shape), reinterpret_cast<std::byte*>(values.data()), sizeof(float));
  }
}

std::string DifferingParts(const std::vector<HarnessRank::Part>& parts,
                           const HarnessTensors& whole) {
  std::string differing;
  for (const HarnessRank::Part& part : parts) {
    std::vector<float> expected(part.values.size());
    CopyRegion(part.box, Box::Whole(part.shape),
               reinterpret_cast<const std::byte*>(whole.at(part.name).data()), part.box,
               reinterpret_cast<std::byte*>(expected.data()), sizeof(float));
    if (std::memcmp(part.values.data(), expected.data(), expected.size() * sizeof(float)) != 0) {
      differing += StrCat(differing.empty() ? "" : ", ", part.name, " ", part.box.ToString());
    }
  }
  return differing;
}

HarnessRank RunHarnessRank(const HarnessOptions& options, CommunicatorFactory* factory, int rank,
                           int first_world_rank, uint64_t generation) {
  const Mesh mesh(options.data, options.tensor, options.pipeline);
  HostMap hosts = IdentityHosts(mesh.size(), generation);
  for (int& world_rank : hosts.world_rank_of) world_rank += first_world_rank;
  const bool gpu = options.device == DeviceKind::kCuda;
  const auto stream = gpu ? std::make_unique<Stream>(Gpu{options.gpu_each ? rank : 0})
                          : std::make_unique<Stream>(options.threads);
  const auto world = !gpu                ? nullptr
                     : options.gpu_world ? options.gpu_world(rank, factory, stream.get())
                                         : StagedWorld(factory, stream.get());
  ProcessGroups groups(gpu ? world.get() : factory, mesh, hosts, rank, factory);
  HarnessRank result;
  result.status = Run(options, *stream, &groups, &result);
  if (!result.status.ok()) groups.Revoke(result.status.message());
  return result;
}

HarnessResult RunHarness(const HarnessOptions& options) {
  std::vector<HarnessRank> ranks(options.ranks());
  auto world = ThreadWorld(options.ranks());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < options.ranks(); ++rank) {
    threads.emplace_back(
        [&, rank] { ranks[rank] = RunHarnessRank(options, world[rank].get(), rank); });
  }
  for (std::thread& thread : threads) thread.join();

  HarnessResult result;
  for (HarnessRank& rank : ranks) {
    if (result.status.ok()) result.status = rank.status;
    Assemble(rank.state, &result.state);
    Assemble(rank.gradients, &result.gradients);
    result.microbatch_losses.insert(rank.losses.begin(), rank.losses.end());
  }
  if (!result.status.ok()) return result;
  result.norms = ranks[0].norms;
  result.replayed = ranks[0].replayed;
  for (const HarnessRank& rank : ranks) {
    if (rank.norms != result.norms) result.status = InternalError("ranks disagree on the norm");
    const std::string differing =
        DifferingParts(rank.state, result.state) + DifferingParts(rank.gradients, result.gradients);
    if (!differing.empty()) result.status = InternalError("ranks disagree on " + differing);
  }
  for (int step = 1; step <= options.steps; ++step) {
    result.losses.push_back(MeanLoss(options, result.microbatch_losses, step));
  }
  return result;
}

double MeanLoss(const HarnessOptions& options, const HarnessLosses& losses, int step) {
  double sum = 0;
  int64_t tokens = 0;
  for (size_t i = 0; i < options.microbatches.size(); ++i) {
    sum += losses.at({step, static_cast<int>(i)});
    tokens += LabelTokens(options.microbatches[i]);
  }
  return sum / static_cast<double>(tokens);
}

std::vector<HarnessBatch> RandomBatches(int count, TokenShape tokens, int64_t vocab_size,
                                        uint64_t seed) {
  std::vector<HarnessBatch> batches(count);
  for (int i = 0; i < count; ++i) {
    const CounterRng rng(seed, RngUse::kTest, i);
    for (int64_t n = 0; n < tokens.tokens(); ++n) {
      batches[i].ids.push_back(static_cast<int32_t>(rng.Below(vocab_size, 2 * n)));
      const auto label = static_cast<int32_t>(rng.Below(vocab_size, 2 * n + 1));
      batches[i].labels.push_back(n % 7 == 3 ? kNoLabel : label);
    }
  }
  return batches;
}

}  // namespace trireme
