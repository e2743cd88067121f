// Every kernel at the shapes of a training step (llama-30m, 8 x 256 tokens; on a GPU llama-3-8b,
// 2 x 4,096), verified against plain double loops first, then timed against this machine's measured
// peaks in the same run: matrix products of 2048^3 (8192^3) for what computes, a triad (a copy)
// over arrays far beyond the caches for what moves memory.
//
// kernels_benchmark [--benchmark_filter=REGEX] [--cpu_clock] [--device=cuda] [--tiny]
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/measured_kernel.h"
#include "cluster/device/elementwise.h"
#include "cluster/device/gpu_info.h"
#include "cluster/device/ordered_sum.h"
#include "worker/kernels/activation.h"
#include "worker/kernels/attention.h"
#include "worker/kernels/cross_entropy.h"
#include "worker/kernels/embedding.h"
#include "worker/kernels/matmul.h"
#include "worker/kernels/norm.h"
#include "worker/optimizer/adamw.h"
#include "worker/optimizer/state_checksum.h"

namespace trireme {
namespace {

int64_t tokens_of_step = 2048, hidden = 512, ffn = 1408, vocabulary = 8192;
int64_t batch_of_step = 8, length_of_step = 256, head_count = 8, key_head_count = 4, head_dim = 64;
int64_t chunk_rows = 512, state_elements = 32 << 20;

void UseSizesOfGpus() {
  hidden = 4096, ffn = 14336, vocabulary = 128256, head_count = 32, key_head_count = 8,
  head_dim = 128;
  batch_of_step = 2, length_of_step = 4096, tokens_of_step = batch_of_step * length_of_step,
  chunk_rows = 2048, peak_size = 8192;
  state_elements = 256 << 20;
}
// To see that all of it runs.
void UseTinySizes() {
  hidden = 64, ffn = 96, vocabulary = 128, head_count = 4, key_head_count = 2, head_dim = 16;
  batch_of_step = 2, length_of_step = 16, tokens_of_step = batch_of_step * length_of_step,
  chunk_rows = 16, peak_size = 64;
  state_elements = 1 << 12;
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
  const std::vector<float> row = p.ta ? a->Values() : a->Values(i * p.k, p.k);
  const std::vector<float> column = p.tb ? b->Values(j * p.k, p.k) : b->Values();
  for (int64_t l = 0; l < p.k; ++l) {
    expected += static_cast<double>(row[p.ta ? l * p.m + i : l]) * column[p.tb ? l : l * p.n + j];
  }
  run(StreamOf(2));
  // Rounding adds up like a walk over the k terms, which are below 1.
  Verify(p.name, c->At(i * p.n + j), expected,
         1e-3 * std::max(1.0, std::sqrt(static_cast<double>(p.k) / 512)));
  Add(std::string("product/") + p.name, {2.0 * p.m * p.n * p.k, 0, dtype}, run);
}

void AddProducts(DType dtype) {
  const int64_t qkv = (head_count + 2 * key_head_count) * head_dim;
  const struct {
    const char *forward, *input, *weight;
    int64_t out, in;
  } layers[] = {{"qkv", "qkv_dx", "qkv_dw", qkv, hidden},
                {"attention_out", "attention_out_dx", "attention_out_dw", hidden, hidden},
                {"gate", "gate_dx", "gate_dw", ffn, hidden},
                {"down", "down_dx", "down_dw", hidden, ffn}};
  for (const auto& l : layers) {
    AddProduct(dtype, {l.forward, tokens_of_step, l.out, l.in, false, true, false});
    AddProduct(dtype, {l.input, tokens_of_step, l.in, l.out, false, false, false});
    AddProduct(dtype, {l.weight, l.out, l.in, tokens_of_step, true, false, true});
  }
  for (const int64_t chunk : {chunk_rows / 2, chunk_rows}) {
    const bool small = chunk < chunk_rows;
    AddProduct(dtype,
               {small ? "logits_half" : "logits", chunk, vocabulary, hidden, false, true, false});
    AddProduct(dtype, {small ? "logits_dx_half" : "logits_dx", chunk, hidden, vocabulary, false,
                       false, false});
    AddProduct(dtype, {small ? "logits_dw_half" : "logits_dw", vocabulary, hidden, chunk, true,
                       false, true});
  }
}

// A feed-forward block's first product with its GELU, and the second one's way back through it.
void AddGeluProducts(DType dtype) {
  const auto x = std::make_shared<Owned>(dtype, Shape{tokens_of_step, hidden}, 1);
  const auto w = std::make_shared<Owned>(dtype, Shape{hidden, ffn}, 2);
  const auto bias = std::make_shared<Owned>(DType::kF32, Shape{ffn}, 3);
  const auto pre = std::make_shared<Owned>(dtype, Shape{tokens_of_step, ffn});
  const auto y = std::make_shared<Owned>(dtype, Shape{tokens_of_step, ffn});
  const auto forward = [=](Stream& stream) {
    MatMulGelu(stream, Matrix::Of(*x), Matrix::Of(*w), Transpose::kNo, *bias, *pre, *y);
  };
  forward(StreamOf(2));
  const double v = pre->At(9);
  Verify("up_gelu", y->At(9), v / (1 + std::exp(-1.5957691216 * v * (1 + 0.044715 * v * v))), 2e-2);
  const double flops = 2.0 * tokens_of_step * ffn * hidden;
  Add("product/up_gelu", {flops, 0, dtype}, forward);
  Add("product/down_dx_gelu", {flops, 0, dtype}, [=](Stream& stream) {
    MatMulGeluBackward(stream, Matrix::Of(*x), Matrix::Of(*w), Transpose::kNo, *pre, *y);
  });
}

void AddAttention(DType dtype, int64_t batch, int64_t length) {
  const auto heads = [=](int64_t count, uint32_t seed) {
    return std::make_shared<Owned>(dtype, Shape{batch, length, count, head_dim}, seed);
  };
  const auto view = [=](const Owned& x) {
    const int64_t count = x.tensor.dim(2);
    return Heads{x.tensor.data(), dtype, batch, length, count, head_dim, count * head_dim};
  };
  const auto q = heads(head_count, 1), k = heads(key_head_count, 2), v = heads(key_head_count, 3);
  const auto out = heads(head_count, 4), dout = heads(head_count, 5), dq = heads(head_count, 6);
  const auto dk = heads(key_head_count, 7), dv = heads(key_head_count, 8);
  const auto saved = std::make_shared<Owned>(DType::kF32, Shape{batch, head_count, length});
  const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
  const auto forward = [=](Stream& stream) {
    AttentionForward(stream, view(*q), view(*k), view(*v), scale, Tensor(), view(*out), *saved);
  };
  const auto backward = [=](Stream& stream) {
    AttentionBackward(stream, view(*dout), view(*q), view(*k), view(*v), view(*out), *saved, scale,
                      Tensor(), view(*dq), view(*dk), view(*dv));
  };
  forward(StreamOf(2));
  const int64_t t = length - 2, h = 3, group = head_count / key_head_count;  // of sequence 0
  const std::vector<float> query = q->Values((t * head_count + h) * head_dim, head_dim);
  const int64_t first_sequence = length * key_head_count * head_dim;
  const std::vector<float> keys = k->Values(0, first_sequence),
                           values = v->Values(0, first_sequence);
  double sum = 0, value = 0;
  for (int64_t s = 0; s <= t; ++s) {
    const int64_t at = (s * key_head_count + h / group) * head_dim;
    double dot = 0;
    for (int64_t i = 0; i < head_dim; ++i) dot += static_cast<double>(query[i]) * keys[at + i];
    sum += std::exp(dot * scale);
    value += std::exp(dot * scale) * values[at];
  }
  Verify("attention", out->At((t * head_count + h) * head_dim), value / sum,
         dtype == DType::kBF16 ? 4e-3 : 1e-5);
  // Two products of T x T x D a head forward, five backward, the causal half of each.
  const double product = 1.0 * batch * head_count * length * length * head_dim;
  const std::string size = std::to_string(batch) + "x" + std::to_string(length);
  Add("attention/forward_" + size, {2 * product, 0, dtype}, forward);
  Add("attention/backward_" + size, {5 * product, 0, dtype}, backward);
}

void AddNorm(DType dtype) {
  const Shape shape = {tokens_of_step, hidden};
  const auto x = std::make_shared<Owned>(dtype, shape, 1),
             past = std::make_shared<Owned>(dtype, shape, 2);
  const auto y = std::make_shared<Owned>(dtype, shape, 3),
             sum = std::make_shared<Owned>(dtype, shape, 4);
  const auto w = std::make_shared<Owned>(DType::kF32, Shape{hidden}, 5);
  const auto b = std::make_shared<Owned>(DType::kF32, Shape{hidden}, 6);
  const auto mean = std::make_shared<Owned>(DType::kF32, Shape{tokens_of_step}, 7);
  const auto inverse = std::make_shared<Owned>(DType::kF32, Shape{tokens_of_step}, 8);
  const double bytes = 1.0 * tokens_of_step * hidden * ByteSize(dtype);
  RmsNormForward(StreamOf(2), *x, *past, *w, 1e-5f, *sum, *y, *inverse);
  double squares = 0;
  for (const float value : sum->Values(0, hidden)) squares += value * value;
  Verify("rms_norm", y->At(7), sum->At(7) / std::sqrt(squares / hidden + 1e-5) * w->At(7), 1e-2);
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
  const Shape shape = {tokens_of_step, ffn};
  std::vector<std::shared_ptr<Owned>> t;
  for (uint32_t i = 0; i < 5; ++i) t.push_back(std::make_shared<Owned>(dtype, shape, i));
  const auto sums = std::make_shared<Owned>(DType::kF32, Shape{ffn});
  const double bytes = 1.0 * tokens_of_step * ffn * ByteSize(dtype);
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
  // Below 2^24: floats hold them.
  const auto id = [](int64_t i) { return static_cast<float>((i * 2654435761u) % vocabulary); };
  const auto position = [](int64_t i) { return static_cast<float>(i % length_of_step); };
  const auto ids = std::make_shared<Owned>(DType::kI32, Shape{tokens_of_step}, id);
  const auto positions =
      std::make_shared<Owned>(DType::kI32, Shape{batch_of_step, length_of_step}, position);
  const auto table = std::make_shared<Owned>(dtype, Shape{vocabulary, hidden});
  const auto gradient = std::make_shared<Owned>(DType::kF32, Shape{vocabulary, hidden});
  const auto y = std::make_shared<Owned>(dtype, Shape{tokens_of_step, hidden});
  const auto cosines = std::make_shared<Owned>(DType::kF32, Shape{length_of_step, head_dim / 2});
  const double bytes = 1.0 * tokens_of_step * hidden * ByteSize(dtype);
  EmbeddingForward(StreamOf(2), *ids, *table, 0, *y);
  Verify("embedding", y->At(hidden + 3), table->At(static_cast<int64_t>(ids->At(1)) * hidden + 3),
         0);
  Add("embedding/forward", {0, 2 * bytes, dtype},
      [=](Stream& stream) { EmbeddingForward(stream, *ids, *table, 0, *y); });
  Add("embedding/backward", {0, bytes + 8.0 * tokens_of_step * hidden, dtype},
      [=](Stream& stream) { EmbeddingBackward(stream, *ids, *y, 0, *gradient, true); });
  const auto places = std::make_shared<Owned>(DType::kI32, Shape{tokens_of_step}, position);
  Add("embedding/positions_added", {0, 3 * bytes, dtype},
      [=](Stream& stream) { PositionEmbeddingForward(stream, *places, *table, *y); });
  Add("attention/rotary", {0, 2 * bytes, dtype}, [=](Stream& stream) {
    const Heads heads{y->tensor.data(), dtype,    batch_of_step, length_of_step,
                      head_count,       head_dim, hidden};
    RotaryInPlace(stream, heads, *positions, *cosines, *cosines, false);
  });
}

void AddCrossEntropy(DType dtype) {
  const auto logits = std::make_shared<Owned>(DType::kF32, Shape{chunk_rows, vocabulary});
  const auto gradient = std::make_shared<Owned>(dtype, Shape{chunk_rows, vocabulary});
  const auto labels = std::make_shared<Owned>(DType::kI32, Shape{chunk_rows});
  std::vector<std::shared_ptr<Owned>> row;
  for (int i = 0; i < 3; ++i)
    row.push_back(std::make_shared<Owned>(DType::kF32, Shape{chunk_rows}));
  const auto statistics = [=](Stream& stream) {
    SoftmaxStatistics(stream, *logits, vocabulary, *labels, 0, *row[0], *row[1], *row[2]);
  };
  statistics(StreamOf(2));
  double sum = 0;
  const float most = row[0]->At(0);
  for (const float value : logits->Values(0, vocabulary)) sum += std::exp(value - most);
  Verify("softmax", row[1]->At(0), sum, 1e-5 * sum);
  const double elements = 1.0 * chunk_rows * vocabulary;
  if (dtype == DType::kF32 || on_gpu) {
    Add("cross_entropy/statistics", {0, 4 * elements, dtype}, statistics);
  }
  Add("cross_entropy/gradient", {0, (4 + ByteSize(dtype)) * elements, dtype}, [=](Stream& stream) {
    SoftmaxGradient(stream, *logits, vocabulary, *labels, 0, *row[0], *row[1], 1e-3f, *gradient);
  });
  // What it leaves is logits, too.
  Add("cross_entropy/in_place", {0, 2.0 * ByteSize(dtype) * elements, dtype}, [=](Stream& stream) {
    CrossEntropyInPlace(stream, *gradient, vocabulary, *labels, 1e-3f, *row[2]);
  });
}

void AddOptimizer() {
  const int64_t n = state_elements;
  std::vector<std::shared_ptr<Owned>> t;
  for (uint32_t i = 0; i < 7; ++i) {
    if (i == 3) {  // second moments
      t.push_back(std::make_shared<Owned>(DType::kF32, Shape{n},
                                          [](int64_t k) { return 1e-3f * (1 + k % 100); }));
    } else {
      t.push_back(std::make_shared<Owned>(DType::kF32, Shape{n}, i));
    }
  }
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
  // Ranges, and behind them their sums.
  constexpr int kRanges = 64;
  const auto table = std::make_shared<Buffer>(
      kRanges * static_cast<int64_t>(sizeof(NormRange) + sizeof(double)), StreamOf(2).device());
  auto* on_device = reinterpret_cast<NormRange*>(table->data());
  std::vector<NormRange> ranges;
  for (int64_t i = 0; i < kRanges; ++i) {
    ranges.push_back({t[0]->tensor.as<float>() + i * (n / kRanges), n / kRanges,
                      reinterpret_cast<double*>(on_device + kRanges) + i});
  }
  StreamOf(2).Copy(on_device, ranges.data(), kRanges * static_cast<int64_t>(sizeof(NormRange)));
  StreamOf(2).Synchronize();
  Add("adamw/sums_of_squares", {0, 4.0 * n}, [=](Stream& s) {
    SumsOfSquares(s, reinterpret_cast<const NormRange*>(table->data()), kRanges);
  });
}

// What communication, checks and masters in bf16 need, over long vectors.
void AddVectors() {
  const int64_t n = state_elements / 8;
  std::vector<std::shared_ptr<Owned>> in;
  for (uint32_t i = 0; i < 8; ++i) in.push_back(std::make_shared<Owned>(DType::kF32, Shape{n}, i));
  const auto at = [=](int i) { return in[i]->tensor.as<float>(); };
  const auto out = std::make_shared<Owned>(DType::kF32, Shape{n});
  const auto narrow = std::make_shared<Owned>(DType::kBF16, Shape{n});
  const double each = static_cast<double>(n);
  const auto sum = [=](Stream& stream, const std::vector<uint8_t>& additions) {
    std::vector<const void*> inputs;
    for (size_t i = 0; i < additions.size(); ++i) inputs.push_back(at(static_cast<int>(i)));
    SumInOrder(stream, DType::kF32, SumOrder(additions), inputs, out->tensor.data(), n);
  };
  const std::vector<uint8_t> two = {0, 1}, eight = {0, 1, 0, 2, 0, 1, 0, 3};
  sum(StreamOf(2), eight);
  float tree[8];
  for (int i = 0; i < 8; ++i) tree[i] = in[i]->At(7);
  Verify("sum in order", out->At(7),
         ((tree[0] + tree[1]) + (tree[2] + tree[3])) + ((tree[4] + tree[5]) + (tree[6] + tree[7])),
         0);
  Add("vectors/sum_of_2", {0, 12 * each}, [=](Stream& s) { sum(s, two); });
  Add("vectors/sum_of_8", {0, 36 * each}, [=](Stream& s) { sum(s, eight); });
  Add("vectors/add_in_place", {0, 12 * each},
      [=](Stream& s) { AddInPlace(s, out->tensor.as<float>(), at(0), n); });
  Add("vectors/cast_to_bfloat16", {0, 6 * each},
      [=](Stream& s) { CastToBFloat16(s, narrow->tensor.as<BFloat16>(), at(0), n); });
  Add("vectors/checksum", {0, 4 * each}, [=](Stream& s) {
    const ChecksumSlice slice{in[0]->tensor, 0};
    (void)StateChecksum(s, {&slice, 1});
  });
  const auto squares = std::make_shared<Owned>(DType::kF32, Shape{n},
                                               [](int64_t k) { return 1e-3f * (1 + k % 100); });
  Add("adamw/stochastic_rounding", {0, 24 * each}, [=](Stream& s) {
    auto* p = narrow->tensor.as<BFloat16>();
    auto *m = in[2]->tensor.as<float>(), *v = squares->tensor.as<float>();
    const AdamWRoundedSlice slice{at(0), p, m, v, p, m, v, n, 0, true};
    AdamWRounded(s, {&slice, 1}, {1e-3, 0.9, 0.95, 1e-8, 0.1, 5, 1.0}, 7);
  });
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const auto has = [&](const char* flag) {
    return std::any_of(argv + 1, argv + argc, [&](char* a) { return std::strcmp(a, flag) == 0; });
  };
  trireme::cpu_clock = has("--cpu_clock");
  trireme::on_gpu = has("--device=cuda");
  if (const auto gpus = trireme::Gpus(); trireme::on_gpu && !gpus.ok()) {
    std::fprintf(stderr, "kernels_benchmark: --device=cuda: %s\n",
                 std::string(gpus.status().message()).c_str());
    return trireme::ExitCode(gpus.status());
  }
  if (trireme::on_gpu) trireme::UseSizesOfGpus();
  if (has("--tiny")) trireme::UseTinySizes();
  std::vector<trireme::DType> dtypes = {trireme::DType::kF32, trireme::DType::kBF16};
  if (trireme::on_gpu) dtypes = {trireme::DType::kBF16};  // the precision that GPUs train in
  for (const trireme::DType dtype : dtypes) {
    trireme::AddProducts(dtype);
    trireme::AddGeluProducts(dtype);
    trireme::AddAttention(dtype, trireme::batch_of_step, trireme::length_of_step);
    if (!trireme::on_gpu) trireme::AddAttention(dtype, 2, 4 * trireme::length_of_step);
    trireme::AddNorm(dtype);
    trireme::AddActivations(dtype);
    trireme::AddEmbeddingAndRotary(dtype);
    trireme::AddCrossEntropy(dtype);
  }
  trireme::AddOptimizer();
  trireme::AddVectors();
  std::printf("%s\n", trireme::MatMulLibrary());
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
