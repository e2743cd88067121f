// One training step of a preset on this machine: tokens a second, and the share of the matrix
// products' peak measured in the same run (2048^3, the same threads). Prints one JSON object, with
// the fields of the PyTorch peer.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "cluster/base/clock.h"
#include "cluster/base/rng.h"
#include "cluster/device/buffer.h"
#include "parallelism/gradient_store.h"
#include "parallelism/pipeline_executor.h"
#include "proto/config.pb.h"
#include "worker/kernels/matmul.h"
#include "worker/model/decoder_stage.h"
#include "worker/model/model_config.h"
#include "worker/optimizer/adamw.h"
#include "worker/training/run_setup.h"

namespace trireme {
namespace {

double Seconds(const std::function<void()>& work) {
  const Micros start = RealClock().NowMicros();
  work();
  return static_cast<double>(RealClock().NowMicros() - start) * 1e-6;
}

// The best of twelve products of 2048^3.
double ProductPeak(Stream& stream, DType dtype) {
  constexpr int64_t kSize = 2048;
  const Buffer a(kSize * kSize * 4), b(kSize * kSize * 4), c(kSize * kSize * 4);
  for (int64_t i = 0; i < kSize * kSize; ++i) {
    if (dtype == DType::kF32) {
      reinterpret_cast<float*>(a.data())[i] = reinterpret_cast<float*>(b.data())[i] = 0.5f;
    } else {
      reinterpret_cast<BFloat16*>(a.data())[i] = ToBFloat16(0.5f);
      reinterpret_cast<BFloat16*>(b.data())[i] = ToBFloat16(0.5f);
    }
  }
  double best = 1e30;
  for (int i = 0; i < 12; ++i) {
    best = std::min(best, Seconds([&] {
                      MatMul(stream, Matrix::Of(a.AsTensor(dtype, {kSize, kSize})), Transpose::kNo,
                             Matrix::Of(b.AsTensor(dtype, {kSize, kSize})), Transpose::kNo,
                             Matrix::Of(c.AsTensor(dtype, {kSize, kSize})));
                    }));
  }
  return 2.0 * kSize * kSize * kSize / best;
}

struct Options {
  std::string preset = "llama-30m", precision = "float32", recompute = "none";
  int64_t batch = 8, length = 256;
  int steps = 8, untimed = 2;
  int threads = static_cast<int>(std::thread::hardware_concurrency());
};

int Run(const Options& o) {
  proto::ModelConfig config;
  config.set_preset(o.preset);
  const Status filled = FillModelDefaults(&config);
  if (!filled.ok()) {
    std::cerr << filled.message() << "\n";
    return ExitCode(filled);
  }
  const ModelShape shape = ModelShape::From(config);
  const std::vector<ParameterSpec> specs = ParameterSpecs(shape, 1, 1);
  const DType compute = o.precision == "bfloat16" ? DType::kBF16 : DType::kF32;
  Stream stream(o.threads);
  ProcessGroups groups;
  StoreOptions store_options;
  store_options.compute = compute;
  ShardedParameterStore store(specs, &groups, &stream, store_options);
  for (const StateTensor& tensor : store.StateToLoad()) {
    if (tensor.kind == StateTensor::Kind::kWeight) {
      FillInitialValues(specs[tensor.id], 1, tensor.box, tensor.tensor.as<float>());
    }
  }
  CHECK(store.FinishLoad(0, 1'000'000).ok());

  const int64_t tokens = o.batch * o.length;
  const Buffer memory(3 * tokens * ByteSize(DType::kI32));
  auto* ids = reinterpret_cast<int32_t*>(memory.data());
  const CounterRng rng(1, RngUse::kTest, 0);
  for (int64_t i = 0; i < 2 * tokens; ++i)
    ids[i] = static_cast<int32_t>(rng.Below(shape.vocab_size, i));
  for (int64_t i = 0; i < tokens; ++i) ids[2 * tokens + i] = static_cast<int32_t>(i % o.length);
  Microbatch data;
  data.ids = Tensor(ids, DType::kI32, {o.batch, o.length});
  data.labels = Tensor(ids + tokens, DType::kI32, {o.batch, o.length});
  data.places.positions = Tensor(ids + 2 * tokens, DType::kI32, {o.batch, o.length});
  data.gradient_scale = 1.0 / static_cast<double>(tokens);

  StageOptions stage_options;
  stage_options.shape = shape;
  stage_options.tokens = {o.batch, o.length};
  stage_options.compute = compute;
  stage_options.recompute = o.recompute == "full"        ? Recompute::kFull
                            : o.recompute == "selective" ? Recompute::kSelective
                                                         : Recompute::kNone;
  DecoderStage stage(stage_options, specs, &stream, &store, TensorGroup(),
                     [&](MicrobatchId) -> const Microbatch& { return data; });
  PipelineExecutor executor(GPipeSchedule(1, 1), 0, {nullptr, &stream, 1'000'000, {}});
  stage.Reserve(1);
  const auto sums = [&](const float* x, std::span<const int64_t> edges, double* out) {
    SumsOfSquares(stream, x, edges, out);
  };
  double norm = 0, loss = 0;
  const auto step = [&](int64_t t) {
    store.BeginStep();
    CHECK(executor.RunStep(stage, store.microbatches()).ok());
    CHECK(store.FinishReduction(1'000'000).ok());
    norm = store.GlobalNorm(sums, 1'000'000).value();
    const AdamWStep adamw{1e-3, 0.9, 0.95, 1e-8, 0.1, t, std::min(1.0, 1.0 / (norm + 1e-6))};
    CHECK(
        store.Update([&](auto slices) { AdamW(stream, ToAdamW(slices), adamw); }, 1'000'000).ok());
    store.Commit(t);
    loss = stage.TakeLosses().begin()->second / static_cast<double>(tokens);
  };
  std::vector<double> times;
  for (int i = 0; i < o.untimed + o.steps; ++i) {
    const double seconds = Seconds([&] { step(i + 1); });
    if (i >= o.untimed) times.push_back(seconds);
  }
  std::sort(times.begin(), times.end());
  const double best = static_cast<double>(tokens) / times.front();
  int64_t parameters = 0;
  for (const ParameterSpec& spec : specs) parameters += ElementCount(spec.shape);
  const double flop = TrainingFlopPerToken(shape, parameters, o.length);
  const double peak = ProductPeak(stream, compute);
  nlohmann::ordered_json out;
  out["program"] = "trireme";
  out["dtype"] = o.precision;
  out["threads"] = o.threads;
  out["parameters"] = parameters;
  out["batch"] = o.batch;
  out["length"] = o.length;
  out["tokens_per_second_best"] = best;
  out["tokens_per_second_median"] = static_cast<double>(tokens) / times[times.size() / 2];
  out["gflops"] = flop * best / 1e9;
  out["matmul_peak_gflops"] = peak / 1e9;
  out["share_of_peak"] = flop * best / peak;
  out["memory_bytes_max"] = BufferMemory().bytes_max;
  out["final_loss"] = loss;
  std::cout << out.dump() << std::endl;
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  trireme::Options options;
  CLI::App app{"One training step, timed"};
  app.add_option("--preset", options.preset)->capture_default_str();
  app.add_option("--precision", options.precision)->capture_default_str();
  app.add_option("--recompute", options.recompute)->capture_default_str();
  app.add_option("--batch", options.batch)->capture_default_str();
  app.add_option("--length", options.length)->capture_default_str();
  app.add_option("--steps", options.steps)->capture_default_str();
  app.add_option("--untimed", options.untimed)->capture_default_str();
  app.add_option("--threads", options.threads)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return trireme::Run(options);
}
