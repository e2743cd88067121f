#include "worker/model/model_shape.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <thread>
#include <vector>

#include "cluster/base/checksum.h"
#include "cluster/base/rng.h"
#include "proto/config.pb.h"

namespace trireme {

ModelShape ModelShape::From(const proto::ModelConfig& c) {
  ModelShape s;
  s.family = c.family() == "gpt2" ? ModelFamily::kGpt2 : ModelFamily::kLlama;
  s.vocab_size = c.vocab_size();
  s.hidden_size = c.hidden_size();
  s.intermediate_size = c.intermediate_size();
  s.layers = c.num_hidden_layers();
  s.heads = c.num_attention_heads();
  s.kv_heads = c.num_key_value_heads();
  s.head_dim = c.head_dim();
  s.max_positions = c.max_position_embeddings();
  s.norm_eps = s.family == ModelFamily::kGpt2 ? c.layer_norm_epsilon() : c.rms_norm_eps();
  s.tied = c.tie_word_embeddings();
  s.attention_bias = c.attention_bias();
  s.mlp_bias = c.mlp_bias();
  s.init_std = c.initializer_range();
  s.rope_theta = c.rope_theta();
  if (c.has_rope_scaling() && !c.rope_scaling().rope_type().empty()) {
    const auto& r = c.rope_scaling();
    s.rope_type = r.rope_type();
    s.rope_factor = r.factor();
    s.rope_low_freq_factor = r.low_freq_factor();
    s.rope_high_freq_factor = r.high_freq_factor();
    s.rope_original_positions = r.original_max_position_embeddings();
  }
  return s;
}

LayerRange StageLayers(int64_t layers, int stages, int stage) {
  return {layers * stage / stages, layers * (stage + 1) / stages};
}

namespace {

Placement CutOver(int tensor, int dim, int64_t parts) {
  if (tensor == 1) return {};
  return {{ShardAlong{Axis::kTensor, dim, parts}}};
}

// Collects specs; the stage of what is added is set once a section.
class SpecList {
 public:
  explicit SpecList(double init_std) : init_std_(init_std) {}

  std::vector<int> stages;

  ParameterSpec& Matrix(const std::string& name, Shape published, Placement placement,
                        Shape view = {}) {
    ParameterSpec& spec = Add(name, std::move(published), std::move(placement), std::move(view));
    spec.init_std = init_std_;
    return spec;
  }
  // A bias (0) or a norm's weight (1).
  ParameterSpec& Vector(const std::string& name, int64_t size, double constant,
                        Placement placement = {}, Shape view = {}) {
    ParameterSpec& spec = Add(name, {size}, std::move(placement), std::move(view));
    spec.decay = false;
    spec.init_std = 0;
    spec.init_constant = constant;
    return spec;
  }
  std::vector<ParameterSpec> Take() { return std::move(specs_); }

 private:
  ParameterSpec& Add(const std::string& name, Shape published, Placement placement, Shape view) {
    ParameterSpec spec;
    spec.name = name;
    spec.shape = view.empty() ? published : std::move(view);
    spec.published_shape = std::move(published);
    spec.placement = std::move(placement);
    spec.stages = stages;
    specs_.push_back(std::move(spec));
    return specs_.back();
  }

  double init_std_;
  std::vector<ParameterSpec> specs_;
};

void AddLlamaLayer(const ModelShape& s, int tensor, int64_t layer, SpecList* list) {
  const std::string at = "model.layers." + std::to_string(layer) + ".";
  const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim, f = s.intermediate_size;
  list->Vector(at + "input_layernorm.weight", s.hidden_size, 1);
  const auto column = [&](const std::string& name, int64_t out, int64_t parts, bool bias) {
    const bool shared = parts < tensor;
    list->Matrix(at + name + ".weight", {out, s.hidden_size}, CutOver(tensor, 0, parts))
        .replicas_sum = shared;
    if (bias) {
      list->Vector(at + name + ".bias", out, 0, CutOver(tensor, 0, parts)).replicas_sum = shared;
    }
  };
  const auto row = [&](const std::string& name, int64_t in, int64_t parts, bool bias) {
    list->Matrix(at + name + ".weight", {s.hidden_size, in}, CutOver(tensor, 1, parts));
    if (bias) list->Vector(at + name + ".bias", s.hidden_size, 0);
  };
  column("self_attn.q_proj", q, s.heads, s.attention_bias);
  column("self_attn.k_proj", kv, s.kv_heads, s.attention_bias);
  column("self_attn.v_proj", kv, s.kv_heads, s.attention_bias);
  row("self_attn.o_proj", q, s.heads, s.attention_bias);
  list->Vector(at + "post_attention_layernorm.weight", s.hidden_size, 1);
  column("mlp.gate_proj", f, f, s.mlp_bias);
  column("mlp.up_proj", f, f, s.mlp_bias);
  row("mlp.down_proj", f, f, s.mlp_bias);
}

void AddGpt2Layer(const ModelShape& s, int tensor, int64_t layer, SpecList* list) {
  const std::string at = "transformer.h." + std::to_string(layer) + ".";
  const int64_t h = s.hidden_size, f = s.intermediate_size;
  const auto norm = [&](const std::string& name) {
    list->Vector(at + name + ".weight", h, 1);
    list->Vector(at + name + ".bias", h, 0);
  };
  // Residual projections start smaller: Radford et al. 2019, section 2.3.
  const double residual_std = s.init_std / std::sqrt(2.0 * static_cast<double>(s.layers));
  norm("ln_1");
  list->Matrix(at + "attn.c_attn.weight", {h, 3 * h}, CutOver(tensor, 2, s.heads), {h, 3, h});
  list->Vector(at + "attn.c_attn.bias", 3 * h, 0, CutOver(tensor, 1, s.heads), {3, h});
  list->Matrix(at + "attn.c_proj.weight", {h, h}, CutOver(tensor, 0, s.heads)).init_std =
      residual_std;
  list->Vector(at + "attn.c_proj.bias", h, 0);
  norm("ln_2");
  list->Matrix(at + "mlp.c_fc.weight", {h, f}, CutOver(tensor, 1, f));
  list->Vector(at + "mlp.c_fc.bias", f, 0, CutOver(tensor, 0, f));
  list->Matrix(at + "mlp.c_proj.weight", {f, h}, CutOver(tensor, 0, f)).init_std = residual_std;
  list->Vector(at + "mlp.c_proj.bias", h, 0);
}

}  // namespace

std::vector<ParameterSpec> ParameterSpecs(const ModelShape& s, int tensor, int stages) {
  const bool gpt2 = s.family == ModelFamily::kGpt2;
  SpecList list(s.init_std);
  const int last = stages - 1;
  list.stages = {0};
  {
    const std::string name = gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight";
    ParameterSpec& table =
        list.Matrix(name, {s.vocab_size, s.hidden_size}, CutOver(tensor, 0, s.vocab_size));
    if (s.tied) {
      table.roles = 2;
      if (stages > 1) table.stages = {0, last};
    }
  }
  if (gpt2) list.Matrix("transformer.wpe.weight", {s.max_positions, s.hidden_size}, {});
  for (int stage = 0; stage < stages; ++stage) {
    list.stages = {stage};
    const LayerRange range = StageLayers(s.layers, stages, stage);
    for (int64_t layer = range.begin; layer < range.end; ++layer) {
      if (gpt2) {
        AddGpt2Layer(s, tensor, layer, &list);
      } else {
        AddLlamaLayer(s, tensor, layer, &list);
      }
    }
  }
  list.stages = {last};
  if (gpt2) {
    list.Vector("transformer.ln_f.weight", s.hidden_size, 1);
    list.Vector("transformer.ln_f.bias", s.hidden_size, 0);
  } else {
    list.Vector("model.norm.weight", s.hidden_size, 1);
  }
  if (!s.tied) {
    list.Matrix("lm_head.weight", {s.vocab_size, s.hidden_size}, CutOver(tensor, 0, s.vocab_size));
  }
  return list.Take();
}

std::vector<double> RotaryInverseFrequencies(const ModelShape& s) {
  std::vector<double> inv_freq(s.head_dim / 2);
  for (int64_t i = 0; i < s.head_dim / 2; ++i) {
    double f = std::pow(s.rope_theta, -2.0 * static_cast<double>(i) / s.head_dim);
    if (s.rope_type == "linear") {
      f /= s.rope_factor;
    } else if (s.rope_type == "llama3") {
      const double n = static_cast<double>(s.rope_original_positions);
      const double wavelength = 2 * std::numbers::pi / f;
      const double low = s.rope_low_freq_factor, high = s.rope_high_freq_factor;
      if (wavelength > n / low) {
        f /= s.rope_factor;
      } else if (wavelength >= n / high) {
        const double smooth = (n / wavelength - low) / (high - low);
        f = (1 - smooth) * f / s.rope_factor + smooth * f;
      }
    }
    inv_freq[i] = f;
  }
  return inv_freq;
}

namespace {

CounterRng InitRng(const ParameterSpec& spec, uint64_t seed) {
  return CounterRng(seed, RngUse::kInit, Checksum64(std::string_view(spec.name)));
}

float ValueAt(const ParameterSpec& spec, const CounterRng& rng, int64_t element) {
  if (spec.init_std == 0) return static_cast<float>(spec.init_constant);
  return static_cast<float>(spec.init_std * rng.Normal(element));
}

}  // namespace

float InitialValue(const ParameterSpec& spec, uint64_t seed, int64_t element) {
  return ValueAt(spec, InitRng(spec, seed), element);
}

namespace {

void FillRows(const ParameterSpec& spec, const CounterRng& rng, const Box& region, float* out) {
  const int rank = region.rank();
  Shape point = region.offset;
  for (int64_t i = 0, n = region.elements(); i < n; ++i) {
    int64_t element = 0;
    for (int d = 0; d < rank; ++d) element = element * spec.shape[d] + point[d];
    out[i] = ValueAt(spec, rng, element);
    for (int d = rank - 1; d >= 0; --d) {
      if (++point[d] < region.offset[d] + region.extent[d]) break;
      point[d] = region.offset[d];
    }
  }
}

}  // namespace

// Values depend on their element alone, so rows are dealt to as many threads as are worth starting.
void FillInitialValues(const ParameterSpec& spec, uint64_t seed, const Box& region, float* out) {
  constexpr int64_t kElementsOfThread = 1 << 20;
  const CounterRng rng = InitRng(spec, seed);
  if (region.elements() == 0) return;
  const int64_t rows = region.extent[0], row_elements = region.elements() / rows;
  const int64_t cores = std::max(1u, std::thread::hardware_concurrency());
  const int64_t parts = std::min({cores, rows, region.elements() / kElementsOfThread + 1});
  std::vector<std::thread> threads;
  for (int64_t part = 1; part <= parts; ++part) {
    const int64_t begin = (part - 1) * rows / parts;
    Box piece = region;
    piece.offset[0] += begin;
    piece.extent[0] = part * rows / parts - begin;
    const auto fill = [&spec, &rng, piece, to = out + begin * row_elements] {
      FillRows(spec, rng, piece, to);
    };
    if (part == parts) {
      fill();
    } else {
      threads.emplace_back(fill);
    }
  }
  for (std::thread& thread : threads) thread.join();
}

double TrainingFlopPerToken(const ModelShape& s, int64_t parameters, int64_t length) {
  return 6.0 * static_cast<double>(parameters) + 6.0 * static_cast<double>(s.layers) *
                                                     static_cast<double>(s.hidden_size) *
                                                     static_cast<double>(length);
}

}  // namespace trireme
