#include "worker/model/model_config.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <array>

#include "proto/config.pb.h"

namespace trireme {
namespace {

template <size_t n>
bool Contains(const std::array<std::string_view, n>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

// Fields that only one of the built families has.
constexpr std::array<std::string_view, 1> kGpt2Only = {"layer_norm_epsilon"};
constexpr std::array<std::string_view, 3> kLlamaOnly = {"rms_norm_eps", "rope_theta",
                                                        "rope_scaling"};

std::string JoinNames(const std::vector<std::string>& names) {
  std::string joined;
  for (const std::string& name : names) joined += (joined.empty() ? "" : ", ") + name;
  return joined;
}

void FillRope(proto::ModelConfig* config) {
  if (!config->has_rope_theta()) config->set_rope_theta(10000.0);
  auto* rope = config->mutable_rope_scaling();
  if (rope->rope_type().empty()) rope->set_rope_type("default");
  if (rope->factor() == 0) rope->set_factor(1.0);
  if (rope->rope_type() != "llama3") return;
  if (rope->low_freq_factor() == 0) rope->set_low_freq_factor(1.0);
  if (rope->high_freq_factor() == 0) rope->set_high_freq_factor(4.0);
  if (rope->original_max_position_embeddings() == 0) {
    rope->set_original_max_position_embeddings(config->max_position_embeddings());
  }
}

// LlamaConfig of transformers 5.
void FillLlama(proto::ModelConfig* config) {
  if (!config->has_vocab_size()) config->set_vocab_size(32000);
  if (!config->has_hidden_size()) config->set_hidden_size(4096);
  if (!config->has_intermediate_size()) config->set_intermediate_size(11008);
  if (!config->has_num_hidden_layers()) config->set_num_hidden_layers(32);
  if (!config->has_num_attention_heads()) config->set_num_attention_heads(32);
  if (!config->has_num_key_value_heads()) {
    config->set_num_key_value_heads(config->num_attention_heads());
  }
  if (!config->has_max_position_embeddings()) config->set_max_position_embeddings(2048);
  if (!config->has_rms_norm_eps()) config->set_rms_norm_eps(1e-6);
  if (!config->has_hidden_act()) config->set_hidden_act("silu");
  if (!config->has_tie_word_embeddings()) config->set_tie_word_embeddings(false);
  if (!config->has_attention_bias()) config->set_attention_bias(false);
  if (!config->has_mlp_bias()) config->set_mlp_bias(false);
  if (!config->has_bos_token_id()) config->set_bos_token_id(1);
  if (!config->has_eos_token_id()) config->set_eos_token_id(2);
  FillRope(config);
}

// GPT2Config of transformers 5; dropout apart, which is off here.
void FillGpt2(proto::ModelConfig* config) {
  if (!config->has_vocab_size()) config->set_vocab_size(50257);
  if (!config->has_hidden_size()) config->set_hidden_size(768);
  if (!config->has_intermediate_size()) config->set_intermediate_size(4 * config->hidden_size());
  if (!config->has_num_hidden_layers()) config->set_num_hidden_layers(12);
  if (!config->has_num_attention_heads()) config->set_num_attention_heads(12);
  if (!config->has_num_key_value_heads()) {
    config->set_num_key_value_heads(config->num_attention_heads());
  }
  if (!config->has_max_position_embeddings()) config->set_max_position_embeddings(1024);
  if (!config->has_layer_norm_epsilon()) config->set_layer_norm_epsilon(1e-5);
  if (!config->has_hidden_act()) config->set_hidden_act("gelu_new");
  if (!config->has_tie_word_embeddings()) config->set_tie_word_embeddings(true);
  if (!config->has_attention_bias()) config->set_attention_bias(true);
  if (!config->has_mlp_bias()) config->set_mlp_bias(true);
  if (!config->has_bos_token_id()) config->set_bos_token_id(50256);
  if (!config->has_eos_token_id()) config->set_eos_token_id(50256);
}

std::optional<ConfigProblem> Problem(std::string key, std::string value, std::string expected,
                                     StatusCode code = StatusCode::kInvalidArgument) {
  return ConfigProblem{std::move(key), std::move(value), std::move(expected), code};
}

std::optional<ConfigProblem> FindRangeProblem(const proto::ModelConfig& c) {
  const struct {
    const char* key;
    int64_t value;
    int64_t most;
  } sizes[] = {{"vocab_size", c.vocab_size(), int64_t{1} << 31},
               {"hidden_size", c.hidden_size(), int64_t{1} << 20},
               {"intermediate_size", c.intermediate_size(), int64_t{1} << 22},
               {"num_hidden_layers", c.num_hidden_layers(), 100000},
               {"num_attention_heads", c.num_attention_heads(), 65536},
               {"num_key_value_heads", c.num_key_value_heads(), 65536},
               {"head_dim", c.head_dim(), 65536},
               {"max_position_embeddings", c.max_position_embeddings(), int64_t{1} << 31}};
  for (const auto& size : sizes) {
    if (size.value < 1 || size.value > size.most) {
      return Problem(size.key, StrCat(size.value), StrCat("a whole number from 1 to ", size.most));
    }
  }
  const bool is_llama = c.family() == "llama";
  const struct {
    const char* key;
    double value;
    bool present;
  } reals[] = {{"rms_norm_eps", c.rms_norm_eps(), is_llama},
               {"layer_norm_epsilon", c.layer_norm_epsilon(), !is_llama},
               {"rope_theta", c.rope_theta(), is_llama}};
  for (const auto& real : reals) {
    if (real.present && !(real.value > 0)) {
      return Problem(real.key, StrCat(real.value), "a number above 0");
    }
  }
  if (!(c.initializer_range() >= 0)) {
    return Problem("initializer_range", StrCat(c.initializer_range()), "a number of at least 0");
  }
  return std::nullopt;
}

std::optional<ConfigProblem> FindTokenProblem(const proto::ModelConfig& c) {
  const struct {
    const char* key;
    int64_t value;
  } ids[] = {{"bos_token_id", c.bos_token_id()},
             {"eos_token_id", c.eos_token_id()},
             {"pad_token_id", c.pad_token_id()}};
  for (const auto& id : ids) {
    // Published configurations hold ids just past the vocabulary; only what cannot be is refused.
    if (id.value < -1) {
      return Problem(id.key, StrCat(id.value), "an id of the vocabulary, or -1 for none");
    }
  }
  return std::nullopt;
}

std::optional<ConfigProblem> FindRopeProblem(const proto::ModelConfig& c) {
  const auto& rope = c.rope_scaling();
  const std::string& type = rope.rope_type();
  if (type == "default") return std::nullopt;
  if (type == "yarn" || type == "dynamic" || type == "longrope") {
    return Problem("rope_scaling.rope_type", type, "not built yet", StatusCode::kNotBuilt);
  }
  if (type != "linear" && type != "llama3") {
    return Problem("rope_scaling.rope_type", type, "default, linear or llama3");
  }
  if (!(rope.factor() >= 1)) {
    return Problem("rope_scaling.factor", StrCat(rope.factor()), "a number of at least 1");
  }
  if (type == "linear") return std::nullopt;
  if (!(rope.low_freq_factor() > 0)) {
    return Problem("rope_scaling.low_freq_factor", StrCat(rope.low_freq_factor()),
                   "a number above 0");
  }
  if (!(rope.high_freq_factor() > rope.low_freq_factor())) {
    return Problem("rope_scaling.high_freq_factor", StrCat(rope.high_freq_factor()),
                   StrCat("more than low_freq_factor (", rope.low_freq_factor(), ")"));
  }
  if (rope.original_max_position_embeddings() < 1) {
    return Problem("rope_scaling.original_max_position_embeddings",
                   StrCat(rope.original_max_position_embeddings()), "a whole number above 0");
  }
  return std::nullopt;
}

// GPT-2 has full heads and biases; the fields exist so that readers need no special case.
std::optional<ConfigProblem> FindGpt2Problem(const proto::ModelConfig& c) {
  if (c.family() != "gpt2") return std::nullopt;
  if (c.num_key_value_heads() != c.num_attention_heads()) {
    return Problem("num_key_value_heads", StrCat(c.num_key_value_heads()),
                   StrCat("num_attention_heads (", c.num_attention_heads(), ") for family gpt2"));
  }
  if (!c.attention_bias()) return Problem("attention_bias", "false", "true for family gpt2");
  if (!c.mlp_bias()) return Problem("mlp_bias", "false", "true for family gpt2");
  return std::nullopt;
}

}  // namespace

std::string ConfigProblem::ToString() const {
  return StrCat(key, ": ", value, ": ", code == StatusCode::kNotBuilt ? "" : "expected ", expected);
}

const std::vector<std::string>& BuiltModelFamilies() {
  static const auto* names = new std::vector<std::string>{"gpt2", "llama"};
  return *names;
}

const std::vector<std::string>& KnownModelFamilies() {
  static const auto* names = new std::vector<std::string>{
      "gpt2",   "gpt_neox", "gpt_neo",   "llama", "qwen2",  "qwen3",
      "gemma3", "mixtral",  "qwen3_moe", "bert",  "marian",
  };
  return *names;
}

Status FillModelDefaults(proto::ModelConfig* config) {
  const std::string family_asked = config->family();
  if (!config->preset().empty() && !ApplyModelPreset(config->preset(), config)) {
    std::vector<std::string> names;
    for (const ModelPreset& preset : ModelPresets()) names.push_back(preset.name);
    const std::string nearest = NearestName(config->preset(), names);
    return InvalidArgumentError(StrCat("preset: ", config->preset(),
                                       ": expected a name of `trireme config --presets`",
                                       nearest.empty() ? "" : "; did you mean " + nearest + "?"));
  }
  if (proto::ModelConfig preset; !config->preset().empty() && !family_asked.empty() &&
                                 ApplyModelPreset(config->preset(), &preset) &&
                                 preset.family() != family_asked) {
    return InvalidArgumentError(
        StrCat("preset: ", config->preset(), ": expected a preset of family ", family_asked));
  }
  const std::string& family = config->family();
  const auto& known = KnownModelFamilies();
  if (family.empty()) {
    return InvalidArgumentError(
        StrCat("family: not set: expected one of ", JoinNames(BuiltModelFamilies())));
  }
  if (family == "llama") {
    FillLlama(config);
  } else if (family == "gpt2") {
    FillGpt2(config);
  } else if (std::find(known.begin(), known.end(), family) != known.end()) {
    return NotBuiltError(StrCat("family: ", family, ": not built yet; this build has ",
                                JoinNames(BuiltModelFamilies())));
  } else {
    const std::string nearest = NearestName(family, known);
    return InvalidArgumentError(StrCat("family: ", family, ": expected one of ",
                                       JoinNames(BuiltModelFamilies()),
                                       nearest.empty() ? "" : "; did you mean " + nearest + "?"));
  }
  if (!config->has_head_dim() && config->num_attention_heads() > 0) {
    config->set_head_dim(config->hidden_size() / config->num_attention_heads());
  }
  if (config->hidden_act() == "gelu_pytorch_tanh") config->set_hidden_act("gelu_new");
  if (!config->has_initializer_range()) config->set_initializer_range(0.02);
  if (!config->has_pad_token_id()) config->set_pad_token_id(-1);
  if (config->bos_token_id() >= config->vocab_size()) config->set_bos_token_id(-1);
  if (config->eos_token_id() >= config->vocab_size()) config->set_eos_token_id(-1);
  return OkStatus();
}

bool ModelIsResolved(const proto::ModelConfig& config) {
  return config.from().empty() || (config.has_head_dim() && config.has_initializer_range());
}

std::optional<ConfigProblem> FindForeignField(const proto::ModelConfig& config) {
  const auto* descriptor = config.GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    if (!config.GetReflection()->HasField(config, field)) continue;
    const std::string& name = field->name();
    if (config.family() == "llama" && Contains(kGpt2Only, name)) {
      return Problem(name, "set", "no such key for family llama (it has rms_norm_eps)");
    }
    if (config.family() == "gpt2" && Contains(kLlamaOnly, name)) {
      return Problem(name, "set", "no such key for family gpt2");
    }
  }
  return std::nullopt;
}

std::optional<ConfigProblem> FindModelProblem(const proto::ModelConfig& c) {
  if (auto problem = FindRangeProblem(c)) return problem;
  if (auto problem = FindTokenProblem(c)) return problem;
  const bool is_llama = c.family() == "llama";
  // Llama's head_dim is free; GPT-2's heads cut the hidden size.
  if (!is_llama && c.hidden_size() != c.num_attention_heads() * c.head_dim()) {
    if (c.hidden_size() % c.num_attention_heads() == 0) {
      return Problem("head_dim", StrCat(c.head_dim()),
                     StrCat("hidden_size / num_attention_heads (",
                            c.hidden_size() / c.num_attention_heads(), ")"));
    }
    return Problem("num_attention_heads", StrCat(c.num_attention_heads()),
                   StrCat("a divisor of hidden_size (", c.hidden_size(), ")"));
  }
  if (is_llama && c.hidden_size() % c.num_attention_heads() != 0 &&
      c.head_dim() == c.hidden_size() / c.num_attention_heads()) {
    return Problem("num_attention_heads", StrCat(c.num_attention_heads()),
                   StrCat("a divisor of hidden_size (", c.hidden_size(), ")"));
  }
  if (c.num_attention_heads() % c.num_key_value_heads() != 0) {
    return Problem("num_key_value_heads", StrCat(c.num_key_value_heads()),
                   StrCat("a divisor of num_attention_heads (", c.num_attention_heads(), ")"));
  }
  if (is_llama && c.head_dim() % 2 != 0) {
    return Problem("head_dim", StrCat(c.head_dim()),
                   "an even number: rotary embedding turns pairs");
  }
  if (auto problem = FindGpt2Problem(c)) return problem;
  const std::string act = is_llama ? "silu" : "gelu_new";
  if (c.hidden_act() != act) {
    static const auto* known = new std::vector<std::string>{
        "silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "gelu_fast", "swish", "relu2"};
    const bool is_known = std::find(known->begin(), known->end(), c.hidden_act()) != known->end();
    return Problem("hidden_act", c.hidden_act(),
                   is_known ? StrCat("not built yet; family ", c.family(), " has ", act) : act,
                   is_known ? StatusCode::kNotBuilt : StatusCode::kInvalidArgument);
  }
  return is_llama ? FindRopeProblem(c) : std::nullopt;
}

namespace {

// As a user would write it in a run's YAML.
std::string FieldText(const proto::ModelConfig& config,
                      const google::protobuf::FieldDescriptor* field) {
  if (!config.GetReflection()->HasField(config, field)) return "not set";
  if (field->cpp_type() == field->CPPTYPE_STRING) {
    return config.GetReflection()->GetString(config, field);
  }
  std::string text;
  google::protobuf::TextFormat::Printer printer;
  printer.SetSingleLineMode(true);
  printer.PrintFieldValueToString(config, field, -1, &text);
  return field->cpp_type() == field->CPPTYPE_MESSAGE ? "{" + text + "}" : text;
}

}  // namespace

std::optional<ConfigProblem> ResolveModelFrom(const proto::ModelConfig& loaded,
                                              proto::ModelConfig* config) {
  const auto* descriptor = config->GetDescriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    if (field->name() == "from" || !config->GetReflection()->HasField(*config, field)) continue;
    const std::string ours = FieldText(*config, field), theirs = FieldText(loaded, field);
    if (ours == theirs) continue;
    return Problem(field->name(), ours, StrCat(theirs, ", as in model.from, or no such key"));
  }
  const std::string from = config->from();
  *config = loaded;
  config->set_from(from);
  return std::nullopt;
}

int64_t NonEmbeddingParameterCount(const proto::ModelConfig& c) {
  const int64_t hidden = c.hidden_size();
  const int64_t ffn = c.intermediate_size();
  const int64_t q = c.num_attention_heads() * c.head_dim();
  const int64_t kv = c.num_key_value_heads() * c.head_dim();
  const bool is_llama = c.family() == "llama";
  int64_t block = hidden * (2 * q + 2 * kv) + (is_llama ? 3 : 2) * hidden * ffn;
  block += (is_llama ? 2 : 4) * hidden;  // two norms
  if (c.attention_bias()) block += q + 2 * kv + hidden;
  if (c.mlp_bias()) block += (is_llama ? 2 : 1) * ffn + hidden;
  return c.num_hidden_layers() * block + (is_llama ? 1 : 2) * hidden;
}

int64_t ParameterCount(const proto::ModelConfig& c) {
  int64_t embeddings = c.vocab_size() * (c.tie_word_embeddings() ? 1 : 2);
  if (c.family() == "gpt2") embeddings += c.max_position_embeddings();
  return NonEmbeddingParameterCount(c) + embeddings * c.hidden_size();
}

namespace {

// Words that other programs have for the same things.
constexpr std::pair<std::string_view, std::string_view> kOtherWords[] = {
    {"learning_rate", "lr"},
    {"bf16", "bfloat16"},
    {"fp16", "float16"},
    {"half", "float16"},
    {"fp32", "float32"},
    {"float", "float32"},
    {"gpu", "cuda"},
    {"adam", "adamw"},
    {"tp", "tensor"},
    {"dp", "data"},
    {"pp", "pipeline"},
    {"cp", "context"},
    {"ep", "expert"},
    {"batch_size", "sequences"},
    {"max_steps", "steps"},
    {"seq_length", "sequence_length"},
    {"grad_clip", "clip_norm"},
};

}  // namespace

std::string NearestName(std::string_view word, const std::vector<std::string>& names) {
  for (const auto& [other, ours] : kOtherWords) {
    if (word == other && std::find(names.begin(), names.end(), ours) != names.end()) {
      return std::string(ours);
    }
  }
  std::string best;
  size_t best_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& name : names) {
    // Levenshtein's distance, one row at a time.
    std::vector<size_t> row(name.size() + 1);
    for (size_t j = 0; j <= name.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= name.size(); ++j) {
        const size_t substitute = diagonal + (word[i - 1] == name[j - 1] ? 0 : 1);
        diagonal = row[j];
        row[j] = std::min({substitute, row[j] + 1, row[j - 1] + 1});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = name;
    }
  }
  return best;
}

}  // namespace trireme
