#include "cli/plan_facts.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "cluster/base/clock.h"
#include "cluster/device/buffer.h"
#include "cluster/launch/host_facts.h"
#include "proto/config.pb.h"
#include "worker/kernels/matmul.h"
#include "worker/training/run_setup.h"

namespace trireme {
namespace {

// Stands for a tensor group of some size while a stage is measured; nothing is sent.
class SizeOnlyGroup final : public Communicator {
 public:
  explicit SizeOnlyGroup(int size) : size_(size) {}
  int rank() const override { return 0; }
  int size() const override { return size_; }
  uint64_t generation() const override { return 0; }
  const std::string& name() const override { return name_; }
  Work ReduceScatter(std::span<const BufferRef>, std::span<const Piece>, BufferRef,
                     const SumTree&) override {
    return Refuse();
  }
  Work AllGather(BufferRef, std::span<const Piece>) override { return Refuse(); }
  Work AllReduce(std::span<const BufferRef>, BufferRef, const SumTree&) override {
    return Refuse();
  }
  Work Broadcast(BufferRef, int) override { return Refuse(); }
  Work AllToAll(BufferRef, std::span<const int64_t>, BufferRef, std::span<const int64_t>) override {
    return Refuse();
  }
  Work Send(BufferRef, int, int) override { return Refuse(); }
  Work Receive(BufferRef, int, int) override { return Refuse(); }
  Work Barrier() override { return Refuse(); }
  void Revoke(const std::string&) override {}

 private:
  static Work Refuse() {
    LOG(FATAL) << "a plan sends nothing";
    __builtin_unreachable();
  }
  int size_;
  std::string name_ = "plan";
};

// Tables that are looked up in, not multiplied with, by their first use.
bool IsLookup(const std::string& name) {
  return name == "model.embed_tokens.weight" || name == "transformer.wte.weight" ||
         name == "transformer.wpe.weight";
}

// FLOP of one microbatch on one rank: two a weight and token for each of forward, backward and
// weight pass, and causal attention counted once.
void AddFlop(const ModelShape& shape, const StageOptions& options,
             const std::vector<ParameterSpec>& specs, int tensor, std::vector<StageCosts>* stages) {
  const double tokens = static_cast<double>(options.tokens.tokens());
  for (const ParameterSpec& spec : specs) {
    if (spec.published_shape.size() < 2) continue;
    const int first_role = IsLookup(spec.name) ? 1 : 0;
    if (first_role >= spec.roles) continue;
    const int stage = spec.stages.size() > 1 ? spec.stages[first_role] : spec.stages.back();
    (*stages)[stage].flop += 6.0 * static_cast<double>(ElementCount(spec.shape)) * tokens / tensor;
  }
  for (StageCosts& costs : *stages) {
    const double layers = static_cast<double>(costs.layers_end - costs.layers_begin);
    const double width = static_cast<double>(shape.heads * shape.head_dim);
    costs.flop +=
        6.0 * layers * width * static_cast<double>(options.tokens.length) * tokens / tensor;
    if (options.recompute == Recompute::kFull) {
      double layer_flop = costs.flop;
      if (&costs == &stages->back()) {
        layer_flop -=
            6.0 * static_cast<double>(shape.vocab_size * shape.hidden_size) * tokens / tensor;
      }
      costs.recomputed_flop = layer_flop / 3;
    }
  }
}

}  // namespace

PlanRequest PlanRequestOf(const proto::Config& config) {
  const proto::LayoutConfig& layout = config.layout();
  PlanRequest request;
  request.data = static_cast<int>(layout.data());
  request.tensor = static_cast<int>(layout.tensor());
  request.pipeline = static_cast<int>(layout.pipeline());
  request.context = static_cast<int>(layout.context());
  request.zero_level = static_cast<int>(layout.zero());
  request.schedule = layout.pipeline_schedule();
  request.types = WeightTypesOf(config);
  request.microbatches = static_cast<int>(MicrobatchesPerStep(config));
  request.leaves = std::stoi(config.batch().sum_leaves());
  if (config.device() == "cuda") request.bucket_bytes = kGpuBucketBytes;
  const int64_t length = config.data().sequence_length();
  request.tokens = config.batch().sequences() * length;
  // Ids, labels and positions, and starts of documents where they are kept apart.
  const int64_t tables = config.data().isolate_documents() ? 4 : 3;
  request.batch_bytes =
      config.batch().microbatch_sequences() * length * tables * ByteSize(DType::kI32);
  return request;
}

ModelFacts ModelFactsOf(const proto::Config& config) {
  const PlanRequest request = PlanRequestOf(config);
  const Mesh mesh(request.data, request.tensor, request.pipeline);
  const ModelShape shape = ModelShape::From(config.model());
  ModelFacts facts;
  facts.specs = ParameterSpecs(shape, request.tensor, request.pipeline);
  SizeOnlyGroup group(request.tensor);
  Stream stream(1);  // says where the memory would be; nothing is enqueued
  StageOptions options;
  for (int s = 0; s < request.pipeline; ++s) {
    options = StageOptionsFor(config, mesh, mesh.RankOf({0, 0, 0, s}));
    const DecoderStage stage(options, facts.specs, &stream, nullptr, TensorGroup(&group, 0), {});
    const StageMemory memory = stage.Memory();
    const LayerRange layers = StageLayers(shape.layers, request.pipeline, s);
    StageCosts costs;
    costs.layers_begin = layers.begin;
    costs.layers_end = layers.end;
    costs.activation_bytes = memory.per_live_microbatch;
    costs.deferred_bytes = memory.deferred_per_microbatch;
    costs.scratch_bytes = memory.scratch;
    const int64_t hidden = options.tokens.tokens() * shape.hidden_size;
    costs.input_bytes = s > 0 ? hidden * ByteSize(options.compute) : 0;
    costs.output_bytes = s + 1 < request.pipeline ? hidden * ByteSize(options.compute) : 0;
    if (request.tensor > 1) {
      // Two sums a layer each way, and one each of embedding and head; f32, by direct exchange.
      const int64_t passes = options.recompute == Recompute::kFull ? 6 : 4;
      const int64_t sums =
          passes * (layers.end - layers.begin) + (s == 0) + (s + 1 == request.pipeline);
      costs.tensor_wire_bytes = sums * 2 * (request.tensor - 1) * hidden * 4 / request.tensor;
    }
    facts.stages.push_back(costs);
  }
  AddFlop(shape, options, facts.specs, request.tensor, &facts.stages);
  return facts;
}

namespace {

// The best of `repeats`, of fewer once `until` has come.
double Seconds(const std::function<void()>& work, int repeats, Micros until) {
  Micros best = 0;
  for (int i = 0; i < repeats; ++i) {
    const Micros start = RealClock().NowMicros();
    if (i > 0 && start >= until) break;
    work();
    const Micros took = std::max<Micros>(1, RealClock().NowMicros() - start);
    best = i == 0 ? took : std::min(best, took);
  }
  return static_cast<double>(best) * 1e-6;
}

// y (M, N) = x (M, K) w (N, K)^T.
struct ProductSize {
  int64_t m, n, k;
  double flop() const {
    return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  }
};

// The larger sides halved until the product takes part of a second; its rate is the same by then.
ProductSize Shortened(ProductSize size) {
  constexpr double kFlopMax = 8e9;
  while (size.flop() > kFlopMax) {
    int64_t* longest = &size.m;
    for (int64_t* side : {&size.n, &size.k}) {
      if (*side > *longest) longest = side;
    }
    *longest /= 2;
  }
  return size;
}

double ProductSeconds(Stream& stream, DType dtype, const ProductSize& size, Micros until) {
  const int64_t bytes = ByteSize(dtype);
  const Buffer x(size.m * size.k * bytes), w(size.n * size.k * bytes), y(size.m * size.n * bytes);
  const Matrix product = Matrix::Of(y.AsTensor(dtype, {size.m, size.n}));
  const auto multiply = [&] {
    MatMul(stream, Matrix::Of(x.AsTensor(dtype, {size.m, size.k})), Transpose::kNo,
           Matrix::Of(w.AsTensor(dtype, {size.n, size.k})), Transpose::kYes, product);
    stream.Synchronize();
  };
  return Seconds(multiply, 4, until);
}

// FLOP/s over one product with each shape of weights that a layer's rank holds, or those of them
// that there is time for.
double ProductRate(const proto::Config& config, Stream& stream) {
  constexpr Micros kTimeMax = 3'000'000;
  const PlanRequest request = PlanRequestOf(config);
  const Mesh mesh(request.data, request.tensor, request.pipeline);
  const ModelShape shape = ModelShape::From(config.model());
  const int64_t tokens = config.batch().microbatch_sequences() * config.data().sequence_length();
  const Micros until = RealClock().NowMicros() + kTimeMax;
  double flop = 0, seconds = 0;
  std::set<Shape> seen;
  for (const ParameterSpec& spec : ParameterSpecs(shape, request.tensor, request.pipeline)) {
    if (spec.published_shape.size() < 2 || IsLookup(spec.name)) continue;
    const Box box = LocalRegion(spec.shape, spec.placement, mesh, 0);
    const Shape weight = {box.extent[0], ElementCount(box.extent) / box.extent[0]};
    if (!seen.insert(weight).second) continue;
    if (flop > 0 && RealClock().NowMicros() >= until) break;
    const ProductSize size = {tokens, weight[0], weight[1]}, measured = Shortened(size);
    seconds += ProductSeconds(stream, request.types.compute, measured, until) * size.flop() /
               measured.flop();
    flop += size.flop();
  }
  return flop / seconds;
}

double CopyRate(Stream& stream) {
  const int64_t bytes = int64_t{64} << 20;
  const Buffer from(bytes), to(bytes);
  const double seconds = Seconds([&] { stream.Copy(to.data(), from.data(), bytes); }, 3, INT64_MAX);
  return 2.0 * static_cast<double>(bytes) / seconds;
}

// Pages of this process that are in memory: with libraries loaded and kernels compiled, about what
// a worker has beside its buffers.
int64_t ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t size = 0, resident = 0;
  statm >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

// Of the time of training, the share that products as fast as measured take; the rest is norms,
// softmax, activations and the update (measured: docs/parallelism.md).
constexpr double kProductShare = 0.8;
constexpr double kMessageSeconds = 30e-6;
// What a worker process has beside this one: MPI's libraries and buffers, the communicators' and
// the control client's threads. Measured with Open MPI 4.1.4 on Debian 12.
constexpr int64_t kTransportBytes = int64_t{25} << 20;

}  // namespace

MachineFacts MachineLimits(const MachineQuestion& question) {
  MachineFacts facts;
  facts.flop_per_second = question.flop_per_second;
  facts.wire_bytes_per_second = question.wire_bytes_per_second;
  facts.wire_seconds = kMessageSeconds;
  facts.program_bytes = ResidentBytes() + kTransportBytes;
  facts.memory_bytes = question.memory_bytes;
  if (facts.memory_bytes == 0) {
    const HostFacts host = ReadHostFacts();
    int64_t bytes = host.memory.available_bytes;
    if (host.memory.limit_bytes > 0) bytes = std::min(bytes, host.memory.limit_bytes);
    facts.memory_bytes = bytes / question.workers_on_host;
  }
  return facts;
}

void MeasureMachine(const proto::Config& config, const MachineQuestion& question,
                    MachineFacts* facts) {
  const int cores = ReadHostFacts().cpu.EffectiveThreads();
  const int workers = question.workers_on_host;
  const int threads =
      config.threads() > 0 ? static_cast<int>(config.threads()) : std::max(1, cores / workers);
  Stream stream(std::min(threads, cores));
  // Workers that share a core share its time.
  const double share = std::min(1.0, static_cast<double>(cores) / (workers * threads));
  if (facts->flop_per_second == 0) {
    facts->flop_per_second = ProductRate(config, stream) * kProductShare * share;
  }
  facts->memory_bytes_per_second = CopyRate(stream) / std::max(1, std::min(workers, cores));
  facts->program_bytes = ResidentBytes() + kTransportBytes;  // now with kernels compiled
}

}  // namespace trireme
