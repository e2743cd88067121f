// Every kernel at the shapes of a llama-30m training step (8 x 256 tokens), verified against plain
// double loops first, then timed against this machine's measured peaks in the same run: matrix
// products of 2048^3 for what computes, a triad over 256 MiB for what moves memory.
//
// kernels_benchmark [--benchmark_filter=REGEX] [--cpu_clock]
#include <benchmark/benchmark.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "cluster/device/buffer.h"
#include "worker/kernels/activation.h"
#include "worker/kernels/attention.h"
#include "worker/kernels/cross_entropy.h"
#include "worker/kernels/embedding.h"
#include "worker/kernels/matmul.h"
#include "worker/kernels/norm.h"
#include "worker/optimizer/adamw.h"

namespace trireme {
namespace {

constexpr int64_t kTokens = 2048, kHidden = 512, kFfn = 1408, kVocabulary = 8192;
constexpr int64_t kBatch = 8, kLength = 256, kHeads = 8, kKeyHeads = 4, kHeadDim = 64;

// --cpu_clock: seconds that the calling thread got, one thread only: for machines that others use
// at the same time. Else wall clock.
bool cpu_clock = false;

double Now() {
  timespec time;
  clock_gettime(cpu_clock ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double Seconds(const std::function<void()>& run) {
  const double start = Now();
  run();
  return Now() - start;
}

double Best(int times, const std::function<void()>& run) {
  double best = 1e30;
  for (int i = 0; i < times; ++i) best = std::min(best, Seconds(run));
  return best;
}

// A tensor of uniform values in [-1, 1] with its memory.
struct Owned {
  Owned(DType dtype, const Shape& shape, uint32_t seed = 1) {
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    memory = Buffer(count * ByteSize(dtype));
    tensor = memory.AsTensor(dtype, shape);
    std::mt19937 bits(seed);
    for (int64_t i = 0; i < count; ++i) {
      const float x = static_cast<float>(bits()) * 4.656612873e-10f - 1.0f;
      if (dtype == DType::kF32) tensor.as<float>()[i] = x;
      if (dtype == DType::kBF16) tensor.as<BFloat16>()[i] = ToBFloat16(x);
    }
  }
  operator const Tensor&() const { return tensor; }  // NOLINT: implicit on purpose
  float At(int64_t i) const {
    return tensor.dtype() == DType::kF32 ? tensor.as<float>()[i]
                                         : ToFloat(tensor.as<BFloat16>()[i]);
  }
  Buffer memory;
  Tensor tensor;
};

Stream& StreamOf(int threads) {
  static std::map<int, std::unique_ptr<Stream>> streams;
  auto& stream = streams[threads];
  if (stream == nullptr) stream = std::make_unique<Stream>(threads);
  return *stream;
}

// FLOP/s of the best 2048^3 product of these threads: the program's own, and for f32 the library's
// own multi-threaded one.
double ProductPeak(DType dtype, int threads) {
  static std::map<std::pair<DType, int>, double> peaks;
  double& peak = peaks[{dtype, threads}];
  if (peak > 0) return peak;
  constexpr int64_t n = 2048;
  const Owned a(dtype, {n, n}, 1), b(dtype, {n, n}, 2), c(DType::kF32, {n, n});
  double best = 1e30;
  for (const Transpose tb : {Transpose::kNo, Transpose::kYes}) {
    best = std::min(best, Best(6, [&] {
                      MatMul(StreamOf(threads), Matrix::Of(a), Transpose::kNo, Matrix::Of(b), tb,
                             Matrix::Of(c));
                    }));
  }
  if (dtype == DType::kF32) {
    omp_set_num_threads(threads);
    best = std::min(best, Best(6, [&] {
                      dnnl_sgemm('N', 'N', n, n, n, 1.0f, a.tensor.as<float>(), n,
                                 b.tensor.as<float>(), n, 0.0f, c.tensor.as<float>(), n);
                    }));
    omp_set_num_threads(1);
  }
  peak = 2.0 * n * n * n / best;
  std::fprintf(stderr, "peak: %s product of 2048^3, %d thread(s): %.1f GFLOP/s\n", DTypeName(dtype),
               threads, peak * 1e-9);
  return peak;
}

// Bytes a second of a[i] = b[i] + s c[i] over arrays far beyond the caches, three streams counted.
double Bandwidth(int threads) {
  static std::map<int, double> bandwidths;
  double& bandwidth = bandwidths[threads];
  if (bandwidth > 0) return bandwidth;
  constexpr int64_t n = int64_t{1} << 24, block = int64_t{1} << 16;
  const Owned a(DType::kF32, {n}), b(DType::kF32, {n}), c(DType::kF32, {n});
  float* pa = a.tensor.as<float>();
  const float *pb = b.tensor.as<float>(), *pc = c.tensor.as<float>();
  bandwidth = 3.0 * n * 4 / Best(8, [&] {
                StreamOf(threads).ParallelFor(n / block, [&](int64_t i) {
                  for (int64_t j = i * block; j < (i + 1) * block; ++j)
                    pa[j] = pb[j] + 0.5f * pc[j];
                });
              });
  std::fprintf(stderr, "peak: triad, %d thread(s): %.1f GB/s\n", threads, bandwidth * 1e-9);
  return bandwidth;
}

// What a kernel does in one call, for the shares.
struct Work {
  double flop = 0;   // against the product peak of `dtype`, or
  double bytes = 0;  // least bytes read and written, against the triad
  DType dtype = DType::kF32;
};

void Report(benchmark::State& state, int threads, const Work& work,
            const std::function<void(Stream&)>& run) {
  const double peak = work.flop > 0 ? ProductPeak(work.dtype, threads) : Bandwidth(threads);
  Stream& stream = StreamOf(threads);
  run(stream);  // compiles kernels, touches memory
  double best = 1e30;
  for (auto _ : state) {
    const double seconds = Seconds([&] { run(stream); });
    state.SetIterationTime(seconds);
    best = std::min(best, seconds);
  }
  const double rate = (work.flop > 0 ? work.flop : work.bytes) / best;
  state.counters["best_us"] = best * 1e6;
  state.counters[work.flop > 0 ? "GFLOP/s" : "GB/s"] = rate * 1e-9;
  state.counters["share"] = rate / peak;
}

void Add(const std::string& name, const Work& work, const std::function<void(Stream&)>& run) {
  for (const int threads : {1, 2}) {
    if (cpu_clock && threads > 1) continue;
    const std::string full =
        name + "/" + DTypeName(work.dtype) + "/threads:" + std::to_string(threads);
    benchmark::RegisterBenchmark(
        full.c_str(), [=](benchmark::State& state) { Report(state, threads, work, run); })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->MinTime(0.3);
  }
}

// Ends the program when `actual` is not what the double loops say: a fast wrong kernel is not one.
void Verify(const std::string& what, double actual, double expected, double tolerance) {
  if (std::abs(actual - expected) <= tolerance) return;
  std::fprintf(stderr, "%s: %g, expected %g\n", what.c_str(), actual, expected);
  std::exit(1);
}

struct Product {
  const char* name;
  int64_t m, n, k;
  bool ta, tb, accumulate;
};

void AddProduct(DType dtype, const Product& p) {
  auto a = std::make_shared<Owned>(dtype, p.ta ? Shape{p.k, p.m} : Shape{p.m, p.k}, 1);
  auto b = std::make_shared<Owned>(dtype, p.tb ? Shape{p.n, p.k} : Shape{p.k, p.n}, 2);
  auto c = std::make_shared<Owned>(DType::kF32, Shape{p.m, p.n});
  const auto run = [=](Stream& stream) {
    MatMul(stream, Matrix::Of(*a), Transpose{p.ta}, Matrix::Of(*b), Transpose{p.tb}, Matrix::Of(*c),
           p.accumulate);
  };
  const int64_t i = p.m / 3, j = p.n / 2;
  double expected = p.accumulate ? c->At(i * p.n + j) : 0;
  for (int64_t l = 0; l < p.k; ++l) {
    expected += static_cast<double>(a->At(p.ta ? l * p.m + i : i * p.k + l)) *
                b->At(p.tb ? j * p.k + l : l * p.n + j);
  }
  run(StreamOf(2));
  Verify(p.name, c->At(i * p.n + j), expected, 1e-3);
  Add(std::string("product/") + p.name, {2.0 * p.m * p.n * p.k, 0, dtype}, run);
}

void AddProducts(DType dtype) {
  constexpr int64_t kQkv = (kHeads + 2 * kKeyHeads) * kHeadDim;
  const struct {
    const char *forward, *input, *weight;
    int64_t out, in;
  } layers[] = {{"qkv", "qkv_dx", "qkv_dw", kQkv, kHidden},
                {"attention_out", "attention_out_dx", "attention_out_dw", kHidden, kHidden},
                {"gate", "gate_dx", "gate_dw", kFfn, kHidden},
                {"down", "down_dx", "down_dw", kHidden, kFfn}};
  for (const auto& l : layers) {
    AddProduct(dtype, {l.forward, kTokens, l.out, l.in, false, true, false});
    AddProduct(dtype, {l.input, kTokens, l.in, l.out, false, false, false});
    AddProduct(dtype, {l.weight, l.out, l.in, kTokens, true, false, true});
  }
  for (const int64_t chunk : {int64_t{256}, int64_t{512}}) {
    const bool small = chunk == 256;
    AddProduct(dtype, {small ? "logits_256" : "logits_512", chunk, kVocabulary, kHidden, false,
                       true, false});
    AddProduct(dtype, {small ? "logits_dx_256" : "logits_dx_512", chunk, kHidden, kVocabulary,
                       false, false, false});
    AddProduct(dtype, {small ? "logits_dw_256" : "logits_dw_512", kVocabulary, kHidden, chunk, true,
                       false, true});
  }
}

void AddAttention(DType dtype, int64_t batch, int64_t length) {
  const auto heads = [=](int64_t count, uint32_t seed) {
    return std::make_shared<Owned>(dtype, Shape{batch, length, count, kHeadDim}, seed);
  };
  const auto view = [=](const Owned& x) {
    const int64_t count = x.tensor.dim(2);
    return Heads{x.tensor.data(), dtype, batch, length, count, kHeadDim, count * kHeadDim};
  };
  const auto q = heads(kHeads, 1), k = heads(kKeyHeads, 2), v = heads(kKeyHeads, 3);
  const auto out = heads(kHeads, 4), dout = heads(kHeads, 5), dq = heads(kHeads, 6);
  const auto dk = heads(kKeyHeads, 7), dv = heads(kKeyHeads, 8);
  const auto saved = std::make_shared<Owned>(DType::kF32, Shape{batch, kHeads, length});
  const float scale = 0.125f;
  const auto forward = [=](Stream& stream) {
    AttentionForward(stream, view(*q), view(*k), view(*v), scale, Tensor(), view(*out), *saved);
  };
  const auto backward = [=](Stream& stream) {
    AttentionBackward(stream, view(*dout), view(*q), view(*k), view(*v), view(*out), *saved, scale,
                      Tensor(), view(*dq), view(*dk), view(*dv));
  };
  forward(StreamOf(2));
  const int64_t t = length - 2, h = 3;  // of sequence 0
  double sum = 0, value = 0;
  for (int64_t s = 0; s <= t; ++s) {
    double dot = 0;
    for (int64_t i = 0; i < kHeadDim; ++i) {
      dot += static_cast<double>(q->At((t * kHeads + h) * kHeadDim + i)) *
             k->At((s * kKeyHeads + h / 2) * kHeadDim + i);
    }
    sum += std::exp(dot * scale);
    value += std::exp(dot * scale) * v->At((s * kKeyHeads + h / 2) * kHeadDim);
  }
  Verify("attention", out->At((t * kHeads + h) * kHeadDim), value / sum,
         dtype == DType::kBF16 ? 4e-3 : 1e-5);
  // Two products of T x T x D a head forward, five backward, the causal half of each.
  const double product = 1.0 * batch * kHeads * length * length * kHeadDim;
  const std::string size = std::to_string(batch) + "x" + std::to_string(length);
  Add("attention/forward_" + size, {2 * product, 0, dtype}, forward);
  Add("attention/backward_" + size, {5 * product, 0, dtype}, backward);
}

void AddNorm(DType dtype) {
  const Shape shape = {kTokens, kHidden};
  const auto x = std::make_shared<Owned>(dtype, shape, 1),
             past = std::make_shared<Owned>(dtype, shape, 2);
  const auto y = std::make_shared<Owned>(dtype, shape, 3),
             sum = std::make_shared<Owned>(dtype, shape, 4);
  const auto w = std::make_shared<Owned>(DType::kF32, Shape{kHidden}, 5);
  const auto b = std::make_shared<Owned>(DType::kF32, Shape{kHidden}, 6);
  const auto mean = std::make_shared<Owned>(DType::kF32, Shape{kTokens}, 7);
  const auto inverse = std::make_shared<Owned>(DType::kF32, Shape{kTokens}, 8);
  const double bytes = 1.0 * kTokens * kHidden * ByteSize(dtype);
  RmsNormForward(StreamOf(2), *x, *past, *w, 1e-5f, *sum, *y, *inverse);
  double squares = 0;
  for (int64_t i = 0; i < kHidden; ++i) squares += sum->At(i) * sum->At(i);
  Verify("rms_norm", y->At(7), sum->At(7) / std::sqrt(squares / kHidden + 1e-5) * w->At(7), 1e-2);
  Add("norm/rms_residual", {0, 4 * bytes, dtype},
      [=](Stream& stream) { RmsNormForward(stream, *x, *past, *w, 1e-5f, *sum, *y, *inverse); });
  Add("norm/rms_backward", {0, 4 * bytes, dtype}, [=](Stream& stream) {
    RmsNormBackward(stream, *y, *x, *w, *inverse, *past, *sum, *b, true);
  });
  Add("norm/layer_residual", {0, 4 * bytes, dtype}, [=](Stream& stream) {
    LayerNormForward(stream, *x, *past, *w, *b, 1e-5f, *sum, *y, *mean, *inverse);
  });
  Add("norm/layer_backward", {0, 4 * bytes, dtype}, [=](Stream& stream) {
    LayerNormBackward(stream, *y, *x, *w, *mean, *inverse, *past, *sum, *b, *b, true);
  });
}

void AddActivations(DType dtype) {
  const Shape shape = {kTokens, kFfn};
  std::vector<std::shared_ptr<Owned>> t;
  for (uint32_t i = 0; i < 5; ++i) t.push_back(std::make_shared<Owned>(dtype, shape, i));
  const auto sums = std::make_shared<Owned>(DType::kF32, Shape{kFfn});
  const double bytes = 1.0 * kTokens * kFfn * ByteSize(dtype);
  SwiGluForward(StreamOf(2), *t[0], *t[1], *t[2]);
  const double g = t[0]->At(9);
  Verify("swiglu", t[2]->At(9), g / (1 + std::exp(-g)) * t[1]->At(9), 4e-3);
  Add("activation/swiglu", {0, 3 * bytes, dtype},
      [=](Stream& stream) { SwiGluForward(stream, *t[0], *t[1], *t[2]); });
  Add("activation/swiglu_backward", {0, 5 * bytes, dtype},
      [=](Stream& stream) { SwiGluBackward(stream, *t[0], *t[1], *t[2], *t[3], *t[4]); });
  Add("activation/gelu", {0, 2 * bytes, dtype},
      [=](Stream& stream) { GeluForward(stream, *t[0], *t[1]); });
  Add("activation/gelu_backward", {0, 3 * bytes, dtype},
      [=](Stream& stream) { GeluBackward(stream, *t[0], *t[1], *t[2]); });
  Add("activation/add", {0, 3 * bytes, dtype},
      [=](Stream& stream) { trireme::Add(stream, *t[0], *t[1], *t[2]); });
  Add("activation/bias_backward", {0, bytes, dtype},
      [=](Stream& stream) { BiasBackward(stream, *t[0], *sums, true); });
}

void AddEmbeddingAndRotary(DType dtype) {
  const auto ids = std::make_shared<Owned>(DType::kI32, Shape{kTokens});
  for (int64_t i = 0; i < kTokens; ++i)
    ids->tensor.as<int32_t>()[i] = (i * 2654435761u) % kVocabulary;
  const auto positions = std::make_shared<Owned>(DType::kI32, Shape{kBatch, kLength});
  for (int64_t i = 0; i < kTokens; ++i) positions->tensor.as<int32_t>()[i] = i % kLength;
  const auto table = std::make_shared<Owned>(dtype, Shape{kVocabulary, kHidden});
  const auto gradient = std::make_shared<Owned>(DType::kF32, Shape{kVocabulary, kHidden});
  const auto y = std::make_shared<Owned>(dtype, Shape{kTokens, kHidden});
  const auto cosines = std::make_shared<Owned>(DType::kF32, Shape{kLength, kHeadDim / 2});
  const double bytes = 1.0 * kTokens * kHidden * ByteSize(dtype);
  EmbeddingForward(StreamOf(2), *ids, *table, 0, *y);
  Verify("embedding", y->At(kHidden + 3),
         table->At(int64_t{ids->tensor.as<int32_t>()[1]} * kHidden + 3), 0);
  Add("embedding/forward", {0, 2 * bytes, dtype},
      [=](Stream& stream) { EmbeddingForward(stream, *ids, *table, 0, *y); });
  Add("embedding/backward", {0, bytes + 8.0 * kTokens * kHidden, dtype},
      [=](Stream& stream) { EmbeddingBackward(stream, *ids, *y, 0, *gradient, true); });
  Add("attention/rotary", {0, 2 * bytes, dtype}, [=](Stream& stream) {
    const Heads heads{y->tensor.data(), dtype, kBatch, kLength, kHeads, kHeadDim, kHidden};
    RotaryInPlace(stream, heads, *positions, *cosines, *cosines, false);
  });
}

void AddCrossEntropy(DType dtype) {
  constexpr int64_t kChunk = 512;
  const auto logits = std::make_shared<Owned>(DType::kF32, Shape{kChunk, kVocabulary});
  const auto gradient = std::make_shared<Owned>(dtype, Shape{kChunk, kVocabulary});
  const auto labels = std::make_shared<Owned>(DType::kI32, Shape{kChunk});
  std::vector<std::shared_ptr<Owned>> row;
  for (int i = 0; i < 3; ++i) row.push_back(std::make_shared<Owned>(DType::kF32, Shape{kChunk}));
  const auto statistics = [=](Stream& stream) {
    SoftmaxStatistics(stream, *logits, *labels, 0, *row[0], *row[1], *row[2]);
  };
  statistics(StreamOf(2));
  double sum = 0;
  for (int64_t v = 0; v < kVocabulary; ++v) sum += std::exp(logits->At(v) - row[0]->At(0));
  Verify("softmax", row[1]->At(0), sum, 1e-3);
  const double elements = 1.0 * kChunk * kVocabulary;
  if (dtype == DType::kF32) {
    Add("cross_entropy/statistics", {0, 4 * elements, dtype}, statistics);
  }
  Add("cross_entropy/gradient", {0, (4 + ByteSize(dtype)) * elements, dtype}, [=](Stream& stream) {
    SoftmaxGradient(stream, *logits, *labels, 0, *row[0], *row[1], 1e-3f, *gradient);
  });
}

void AddOptimizer() {
  constexpr int64_t n = 32 << 20;
  std::vector<std::shared_ptr<Owned>> t;
  for (uint32_t i = 0; i < 7; ++i) t.push_back(std::make_shared<Owned>(DType::kF32, Shape{n}, i));
  for (int64_t i = 0; i < n; ++i) t[3]->tensor.as<float>()[i] = std::abs(t[3]->At(i));
  const auto compute = std::make_shared<Owned>(DType::kBF16, Shape{n});
  const auto run = [=](Stream& stream, bool in_place, bool copy) {
    const auto at = [&](int i) { return t[i]->tensor.as<float>(); };
    const AdamWSlice slice{at(0),
                           at(1),
                           at(2),
                           at(3),
                           at(in_place ? 1 : 4),
                           at(in_place ? 2 : 5),
                           at(in_place ? 3 : 6),
                           copy ? compute->tensor.as<BFloat16>() : nullptr,
                           n,
                           true};
    AdamW(stream, {&slice, 1}, {1e-3, 0.9, 0.95, 1e-8, 0.1, 5, 1.0});
  };
  run(StreamOf(2), false, true);
  const double g = t[0]->At(5), m = 0.9 * t[2]->At(5) + 0.1 * g;
  Verify("adamw", t[5]->At(5), m, 1e-6);
  Add("adamw/out_of_place", {0, 28.0 * n}, [=](Stream& s) { run(s, false, false); });
  Add("adamw/out_of_place_bf16_copy", {0, 30.0 * n}, [=](Stream& s) { run(s, false, true); });
  Add("adamw/in_place", {0, 28.0 * n}, [=](Stream& s) { run(s, true, false); });
  Add("adamw/sums_of_squares", {0, 4.0 * n}, [=](Stream& s) {
    std::vector<int64_t> edges;
    for (int64_t i = 0; i <= 64; ++i) edges.push_back(i * (n / 64));
    std::vector<double> sums(64);
    SumsOfSquares(s, t[0]->tensor.as<float>(), edges, sums.data());
  });
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  for (int i = 1; i < argc; ++i) trireme::cpu_clock |= std::strcmp(argv[i], "--cpu_clock") == 0;
  for (const trireme::DType dtype : {trireme::DType::kF32, trireme::DType::kBF16}) {
    trireme::AddProducts(dtype);
    trireme::AddAttention(dtype, 8, 256);
    trireme::AddAttention(dtype, 2, 1024);
    trireme::AddNorm(dtype);
    trireme::AddActivations(dtype);
    trireme::AddEmbeddingAndRotary(dtype);
    trireme::AddCrossEntropy(dtype);
  }
  trireme::AddOptimizer();
  std::printf("%s\n", trireme::MatMulLibrary());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
