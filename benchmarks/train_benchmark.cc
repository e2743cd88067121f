// One training step of a preset on this machine: tokens a second, and the share of the matrix
// products' peak measured in the same run (2048^3 with the same threads, 8192^3 on a GPU). Prints
// one JSON object, with the fields of the PyTorch peer; on a GPU also what the step's operations
// take.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <future>
#include <iostream>
#include <memory>
#include <thread>
#include <vector>

#include "cli/config_loader.h"
#include "cluster/base/clock.h"
#include "cluster/base/json.h"
#include "cluster/base/rng.h"
#include "cluster/device/buffer.h"
#include "cluster/device/gpu_info.h"
#include "cluster/device/operation_times.h"
#include "parallelism/gradient_store.h"
#include "parallelism/pipeline_executor.h"
#include "proto/config.pb.h"
#include "storage/element_conversion.h"
#include "worker/kernels/matmul.h"
#include "worker/model/decoder_stage.h"
#include "worker/training/run_setup.h"
#include "worker/training/training_step.h"

namespace trireme {
namespace {

// Until the stream has done the work.
double Seconds(Stream& stream, const std::function<void()>& work) {
  stream.Synchronize();
  const Micros start = RealClock().NowMicros();
  work();
  stream.Synchronize();
  return static_cast<double>(RealClock().NowMicros() - start) * 1e-6;
}

// Copies memory of the host to the stream's device; the host's may go afterwards.
void Upload(Stream& stream, const Tensor& target, const void* source) {
  stream.Copy(target.data(), source, target.bytes());
  stream.Synchronize();
}

// The best of twelve products of random numbers: constants are faster, they move fewer bits.
double ProductPeak(Stream& stream, DType dtype, int64_t size) {
  const DeviceKind device = stream.device();
  const Buffer a(size * size * ByteSize(dtype), device), b(a.bytes(), device), c(a.bytes(), device);
  std::vector<std::byte> values(a.bytes());
  const CounterRng rng(2, RngUse::kTest, 0);
  for (int64_t i = 0; i < size * size; ++i) {
    const float x = static_cast<float>(rng.Below(2001, i)) / 1000.0f - 1.0f;
    if (dtype == DType::kF32) {
      reinterpret_cast<float*>(values.data())[i] = x;
    } else {
      reinterpret_cast<BFloat16*>(values.data())[i] = ToBFloat16(x);
    }
  }
  const Shape shape = {size, size};
  Upload(stream, a.AsTensor(dtype, shape), values.data());
  Upload(stream, b.AsTensor(dtype, shape), values.data());
  double best = 1e30;
  for (int i = 0; i < 12; ++i) {
    best = std::min(best, Seconds(stream, [&] {
                      MatMul(stream, Matrix::Of(a.AsTensor(dtype, shape)), Transpose::kNo,
                             Matrix::Of(b.AsTensor(dtype, shape)), Transpose::kNo,
                             Matrix::Of(c.AsTensor(dtype, shape)));
                    }));
  }
  return 2.0 * static_cast<double>(size) * static_cast<double>(size * size) / best;
}

struct Options {
  std::string preset = "llama-30m", precision = "float32", master = "float32";
  std::string recompute = "none", device = "cpu";
  int64_t batch = 8, length = 256;
  int64_t peak_size = 0;   // of the product that the peak is measured with; 0: the device's own
  double peak_tflops = 0;  // by the data sheet, for `mfu`
  int steps = 8, untimed = 2;
  int microbatches = 1;  // of a step: their gradients are added up before the update
  int threads = static_cast<int>(std::thread::hardware_concurrency());
};

std::unique_ptr<Stream> OpenStream(const Options& o) {
  if (o.device == "cuda") return std::make_unique<Stream>(Gpu{0});
  return std::make_unique<Stream>(o.threads);
}

// Random ids [batch, length], their labels and positions, on the stream's device in `memory`.
Microbatch RandomBatch(Stream& stream, const Options& o, int64_t vocab, Buffer* memory) {
  const int64_t tokens = o.batch * o.length;
  std::vector<int32_t> host(3 * tokens);
  const CounterRng rng(1, RngUse::kTest, 0);
  for (int64_t i = 0; i < 2 * tokens; ++i) host[i] = static_cast<int32_t>(rng.Below(vocab, i));
  for (int64_t i = 0; i < tokens; ++i) host[2 * tokens + i] = static_cast<int32_t>(i % o.length);
  *memory = Buffer(3 * tokens * ByteSize(DType::kI32), stream.device(), "tokens");
  Upload(stream, memory->AsTensor(DType::kI32, {3 * tokens}), host.data());
  auto* ids = reinterpret_cast<int32_t*>(memory->data());
  Microbatch data;
  data.ids = Tensor(ids, DType::kI32, {o.batch, o.length});
  data.labels = Tensor(ids + tokens, DType::kI32, {o.batch, o.length});
  data.places.positions = Tensor(ids + 2 * tokens, DType::kI32, {o.batch, o.length});
  data.gradient_scale = 1.0 / static_cast<double>(tokens * o.microbatches);
  return data;
}

void LoadInitialWeights(Stream& stream, const std::vector<ParameterSpec>& specs,
                        ShardedParameterStore* store) {
  std::vector<StateTensor> weights = store->StateToLoad();
  std::erase_if(weights, [](const auto& t) { return t.kind != StateTensor::Kind::kWeight; });
  // Billions of normal values: as many tensors at once as there are cores.
  const size_t at_once = std::max(1u, std::thread::hardware_concurrency());
  for (size_t first = 0; first < weights.size(); first += at_once) {
    const size_t last = std::min(first + at_once, weights.size());
    std::vector<std::future<std::vector<std::byte>>> values;
    for (size_t i = first; i < last; ++i) {
      values.push_back(std::async(std::launch::async, [&specs, &tensor = weights[i]] {
        std::vector<float> host(tensor.tensor.elements());
        FillInitialValues(specs[tensor.id], 1, tensor.box, host.data());
        std::vector<std::byte> values(tensor.tensor.bytes());
        ConvertElements(DType::kF32, reinterpret_cast<const std::byte*>(host.data()),
                        tensor.tensor.dtype(), values.data(), tensor.tensor.elements());
        return values;
      }));
    }
    for (size_t i = first; i < last; ++i) {
      Upload(stream, weights[i].tensor, values[i - first].get().data());
    }
  }
  CHECK(store->FinishLoad(0, 1'000'000).ok());
}

Json Shares(const std::vector<OperationTimes::Share>& shares) {
  Json list = Json::array();
  double all = 0;
  for (const auto& share : shares) all += share.milliseconds;
  for (const auto& share : shares) {
    list.push_back({{"operation", share.operation},
                    {"calls", share.calls},
                    {"milliseconds", share.milliseconds},
                    {"share", share.milliseconds / all}});
  }
  return list;
}

// The preset and what follows it, as a run's YAML says it.
Result<ModelShape> ShapeOf(const Options& o) {
  ASSIGN_OR_RETURN(
      const auto config,
      ParseConfig(StrCat("run: {dir: none}\nmodel: {preset: ", o.preset,
                         "}\ndata: {train: [{path: none}], sequence_length: ", o.length, "}\n"),
                  "--preset", {}));
  RETURN_IF_ERROR(FillDefaults(config.get()));
  return ModelShape::From(config->model());
}

Status Run(const Options& o) {
  ASSIGN_OR_RETURN(const ModelShape shape, ShapeOf(o));
  const std::vector<ParameterSpec> specs = ParameterSpecs(shape, 1, 1);
  const DType compute = o.precision == "bfloat16" ? DType::kBF16 : DType::kF32;
  const std::unique_ptr<Stream> opened = OpenStream(o);
  Stream& stream = *opened;
  ProcessGroups groups;
  StoreOptions store_options;
  store_options.types = {compute, o.master == "bfloat16" ? DType::kBF16 : DType::kF32};
  store_options.microbatches = o.microbatches;
  ShardedParameterStore store(specs, &groups, &stream, store_options);
  LoadInitialWeights(stream, specs, &store);
  Buffer memory;
  const Microbatch data = RandomBatch(stream, o, shape.vocab_size, &memory);
  const int64_t tokens = o.batch * o.length * o.microbatches;

  StageOptions stage_options;
  stage_options.shape = shape;
  stage_options.tokens = {o.batch, o.length};
  stage_options.compute = compute;
  stage_options.recompute = o.recompute == "full"        ? Recompute::kFull
                            : o.recompute == "selective" ? Recompute::kSelective
                                                         : Recompute::kNone;
  const auto source = [&](MicrobatchId) -> const Microbatch& { return data; };
  DecoderStage stage(stage_options, specs, &stream, &store, TensorGroup(), source);
  const auto schedule = MakeSchedule("1f1b", 1, o.microbatches);
  CHECK(schedule.ok()) << schedule.status().message();
  PipelineExecutor executor(*schedule, 0, {nullptr, &stream, 1'000'000, {}});
  stage.Reserve(1);
  TrainingStep training_step(
      {&stream, &groups, &store, &stage, &executor, source, 1.0, 1, 1'000'000, {}, {}, true});
  double loss = 0;
  const auto step = [&](int64_t t) {
    CHECK(training_step.Run({1e-3, 0.9, 0.95, 1e-8, 0.1, t, 1}).ok());
    store.Commit(t);
    loss = 0;
    for (const auto& [id, sum] : stage.TakeLosses()) loss += sum / static_cast<double>(tokens);
  };
  std::vector<double> times;
  // On a GPU two steps run as they are written and two are recorded before they are replayed.
  const int untimed = o.device == "cuda" ? std::max(o.untimed, 4) : o.untimed;
  for (int i = 0; i < untimed + o.steps; ++i) {
    const double seconds = Seconds(stream, [&] { step(i + 1); });
    if (i >= untimed) times.push_back(seconds);
  }
  OperationTimes operation_times(&stream);
  step(untimed + o.steps + 1);
  const std::vector<OperationTimes::Share> shares = operation_times.Take();
  std::sort(times.begin(), times.end());
  const double best = static_cast<double>(tokens) / times.front();
  int64_t parameters = 0;
  for (const ParameterSpec& spec : specs) parameters += ElementCount(spec.shape);
  const double flop = TrainingFlopPerToken(shape, parameters, o.length);
  const int64_t peak_size = o.peak_size > 0 ? o.peak_size : o.device == "cuda" ? 8192 : 2048;
  const double peak = ProductPeak(stream, compute, peak_size);
  Json out;
  out["program"] = "trireme";
  out["dtype"] = o.precision;
  out["master"] = o.master;
  out["device"] = o.device;
  if (o.device == "cpu") out["threads"] = o.threads;
  out["parameters"] = parameters;
  out["batch"] = o.batch;
  out["microbatches"] = o.microbatches;
  out["length"] = o.length;
  out["tokens_per_second_best"] = best;
  out["tokens_per_second_median"] = static_cast<double>(tokens) / times[times.size() / 2];
  out["gflops"] = flop * best / 1e9;
  out["matmul_peak_gflops"] = peak / 1e9;
  out["share_of_peak"] = flop * best / peak;
  if (o.peak_tflops > 0) out["mfu"] = flop * best / (o.peak_tflops * 1e12);
  out["memory_bytes_max"] = o.device == "cuda"
                                ? BufferMemoryOfGpu(0).bytes_max + OperationBytesMaxOfGpu(0)
                                : BufferMemory().bytes_max;
  out["final_loss"] = loss;
  if (o.device == "cuda") {
    out["steps_as_graphs"] = training_step.replayed();
    out["graphs_of_a_step"] = training_step.graphs();
  }
  if (!shares.empty()) out["step_by_operation"] = Shares(shares);
  std::cout << DumpJson(out) << std::endl;
  return OkStatus();
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  trireme::Options options;
  CLI::App app{"One training step, timed"};
  app.add_option("--preset", options.preset,
                 "and fields of the model that differ: 'llama-2-7b, num_hidden_layers: 4'")
      ->capture_default_str();
  app.add_option("--device", options.device)->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--peak-size", options.peak_size, "of the product that gives the peak");
  app.add_option("--peak-tflops", options.peak_tflops, "by the data sheet, for mfu");
  app.add_option("--precision", options.precision)->capture_default_str();
  app.add_option("--master", options.master, "what weights are kept in: float32, bfloat16")
      ->capture_default_str();
  app.add_option("--recompute", options.recompute)->capture_default_str();
  app.add_option("--batch", options.batch)->capture_default_str();
  app.add_option("--microbatches", options.microbatches, "of `batch` sequences in a step");
  app.add_option("--length", options.length)->capture_default_str();
  app.add_option("--steps", options.steps)->capture_default_str();
  app.add_option("--untimed", options.untimed)->capture_default_str();
  app.add_option("--threads", options.threads)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  trireme::Status status;
  if (const auto gpus = trireme::Gpus(); options.device == "cuda" && !gpus.ok()) {
    status = gpus.status().WithContext("--device cuda");
  } else {
    status = trireme::Run(options);
  }
  if (!status.ok()) std::cerr << "train_benchmark: " << status.message() << "\n";
  return trireme::ExitCode(status);
}
