// Hugging Face's config.json: read in the forms of transformers 4 and 5, written so that both load
// it.
#include <algorithm>
#include <cmath>
#include <map>

#include "cluster/base/json.h"
#include "proto/config.pb.h"
#include "worker/model/model_config.h"

namespace trireme {
namespace {

using google::protobuf::FieldDescriptor;

const std::map<std::string_view, std::string_view>& Aliases() {
  static const auto* aliases = new std::map<std::string_view, std::string_view>{
      {"n_embd", "hidden_size"},
      {"n_inner", "intermediate_size"},
      {"n_layer", "num_hidden_layers"},
      {"n_head", "num_attention_heads"},
      {"n_positions", "max_position_embeddings"},
      {"n_ctx", "max_position_embeddings"},
      {"activation_function", "hidden_act"},
      {"layer_norm_eps", "layer_norm_epsilon"},
      {"model_type", "family"},
  };
  return *aliases;
}

// Keys of transformers that change what the model computes and of which one value is built.
struct Feature {
  std::string_view key;
  std::string_view built;  // compact JSON; several separated by blanks
  StatusCode code = StatusCode::kNotBuilt;
};
constexpr Feature kFeatures[] = {
    {"scale_attn_weights", "true"},     {"scale_attn_by_inverse_layer_idx", "false"},
    {"add_cross_attention", "false"},   {"is_encoder_decoder", "false"},
    {"sliding_window", "null"},         {"use_sliding_window", "false"},
    {"partial_rotary_factor", "1 1.0"}, {"quantization_config", "null"},
    {"logit_scale", "null 1 1.0"},      {"attention_multiplier", "null"},
    {"num_local_experts", "null"},
};

// Dropout acts in training only, and training here has none.
constexpr std::string_view kDropout[] = {"activation_dropout",
                                         "attention_dropout",
                                         "attention_probs_dropout_prob",
                                         "attn_pdrop",
                                         "dropout",
                                         "embd_pdrop",
                                         "hidden_dropout",
                                         "hidden_dropout_prob",
                                         "resid_pdrop"};

// Keys that leave the numbers as they are.
constexpr std::string_view kHarmless[] = {"architectures",
                                          "auto_map",
                                          "dtype",
                                          "gradient_checkpointing",
                                          "id2label",
                                          "label2id",
                                          "model_max_length",
                                          "pretraining_tp",
                                          "problem_type",
                                          "reorder_and_upcast_attn",
                                          "return_dict",
                                          "summary_activation",
                                          "summary_first_dropout",
                                          "summary_proj_to_labels",
                                          "summary_type",
                                          "summary_use_proj",
                                          "task_specific_params",
                                          "torch_dtype",
                                          "transformers_version",
                                          "use_cache",
                                          "output_attentions",
                                          "output_hidden_states",
                                          "_name_or_path",
                                          "chunk_size_feed_forward",
                                          "_attn_implementation",
                                          "is_decoder"};

template <size_t n>
bool IsAmong(const std::string_view (&names)[n], std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

bool HasWord(std::string_view words, std::string_view word) {
  for (size_t at = 0; at <= words.size();) {
    const size_t end = std::min(words.find(' ', at), words.size());
    if (words.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

// For messages. Objects and arrays may be long or deep: their kind says enough.
std::string ShortJson(const Json& value) {
  return value.is_structured() ? value.type_name() : DumpJson(value).substr(0, 80);
}

std::optional<ConfigProblem> WrongType(std::string_view key, const Json& value,
                                       const char* expected) {
  return ConfigProblem{std::string(key), ShortJson(value), expected, StatusCode::kInvalidArgument};
}

// Sets one scalar field from JSON; null leaves it alone.
std::optional<ConfigProblem> SetField(const std::string& key, const Json& value,
                                      const FieldDescriptor* field,
                                      google::protobuf::Message* message) {
  const auto* reflection = message->GetReflection();
  if (value.is_null()) return std::nullopt;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT64:
      if (value.is_number_integer()) {
        reflection->SetInt64(message, field, value.get<int64_t>());
      } else if (value.is_number_float() && std::abs(value.get<double>()) < 1e15 &&
                 value.get<double>() == std::floor(value.get<double>())) {
        reflection->SetInt64(message, field, int64_t(value.get<double>()));
      } else {
        return WrongType(key, value, "a whole number");
      }
      return std::nullopt;
    case FieldDescriptor::CPPTYPE_DOUBLE:
      if (!value.is_number()) return WrongType(key, value, "a number");
      reflection->SetDouble(message, field, value.get<double>());
      return std::nullopt;
    case FieldDescriptor::CPPTYPE_BOOL:
      if (!value.is_boolean()) return WrongType(key, value, "true or false");
      reflection->SetBool(message, field, value.get<bool>());
      return std::nullopt;
    case FieldDescriptor::CPPTYPE_STRING:
      if (!value.is_string()) return WrongType(key, value, "a string");
      reflection->SetString(message, field, value.get<std::string>());
      return std::nullopt;
    default:
      LOG(FATAL) << "a field of ModelConfig has a type that config.json cannot hold: " << key;
  }
}

// Token ids: null means none, a list means its first (Llama 3's chat models name several ends).
std::optional<ConfigProblem> SetTokenId(const std::string& key, const Json& value,
                                        const FieldDescriptor* field, proto::ModelConfig* config) {
  if (value.is_null()) {
    config->GetReflection()->SetInt64(config, field, -1);
    return std::nullopt;
  }
  if (value.is_array() && !value.empty()) return SetField(key, value[0], field, config);
  return SetField(key, value, field, config);
}

// rope_scaling of transformers 4, rope_parameters of 5 (which holds rope_theta too).
std::optional<ConfigProblem> SetRope(const std::string& key, const Json& value,
                                     proto::ModelConfig* config) {
  if (value.is_null()) return std::nullopt;
  if (!value.is_object()) return WrongType(key, value, "an object");
  auto* rope = config->mutable_rope_scaling();
  for (const auto& [name, entry] : value.items()) {
    const std::string path = key + "." + name;
    std::optional<ConfigProblem> problem;
    if (name == "rope_theta") {
      problem = SetField(path, entry, config->GetDescriptor()->FindFieldByName(name), config);
    } else if (const auto* field =
                   rope->GetDescriptor()->FindFieldByName(name == "type" ? "rope_type" : name)) {
      problem = SetField(path, entry, field, rope);
    } else if (name == "partial_rotary_factor") {
      bool known = false;
      problem = CheckForeignModelKey(name, ShortJson(entry), &known);
    }
    if (problem) return problem;
  }
  return std::nullopt;
}

std::optional<ConfigProblem> SetKey(const std::string& key, const Json& value,
                                    proto::ModelConfig* config) {
  if (key == "rope_scaling" || key == "rope_parameters") return SetRope(key, value, config);
  if (key == "from" || key == "preset") return std::nullopt;  // not Hugging Face's
  const std::string name(CanonicalModelKey(key));
  if (const auto* field = config->GetDescriptor()->FindFieldByName(name)) {
    if (key.ends_with("_token_id")) return SetTokenId(key, value, field, config);
    return SetField(key, value, field, config);
  }
  bool known = false;
  return CheckForeignModelKey(key, ShortJson(value), &known);
}

Status ToStatus(const std::string& path, const ConfigProblem& problem) {
  const std::string message = StrCat(path, ": ", problem.ToString());
  return problem.code == StatusCode::kNotBuilt ? NotBuiltError(message) : DataLossError(message);
}

}  // namespace

std::string_view CanonicalModelKey(std::string_view key) {
  const auto found = Aliases().find(key);
  return found == Aliases().end() ? key : found->second;
}

std::optional<ConfigProblem> CheckForeignModelKey(std::string_view key,
                                                  const std::string& value_json, bool* known) {
  *known = true;
  for (const Feature& feature : kFeatures) {
    if (feature.key != key) continue;
    if (HasWord(feature.built, value_json) || value_json == "null") return std::nullopt;
    return ConfigProblem{std::string(key), value_json, "not built yet", feature.code};
  }
  *known = IsAmong(kHarmless, key) || IsDropoutKey(key);
  return std::nullopt;
}

bool IsDropoutKey(std::string_view key) { return IsAmong(kDropout, key); }

Result<proto::ModelConfig> ParseHuggingFaceConfig(std::string_view json, const std::string& path) {
  const Json root = ParseJson(json);
  if (root.is_discarded()) return DataLossError(StrCat(path, ": not valid JSON"));
  if (!root.is_object()) return DataLossError(StrCat(path, ": expected a JSON object"));
  if (!root.contains("model_type") || !root["model_type"].is_string()) {
    return DataLossError(StrCat(path, ": model_type: expected the name of a family"));
  }
  proto::ModelConfig config;
  // The family first: whether a key matters depends on it.
  config.set_family(root["model_type"].get<std::string>());
  const auto& built = BuiltModelFamilies();
  if (std::find(built.begin(), built.end(), config.family()) == built.end()) {
    const Status status = FillModelDefaults(&config);
    std::string message = status.message();
    if (message.starts_with("family: ")) message.replace(0, 6, "model_type");
    return Status(status.code(), message).WithContext(path);
  }
  for (const auto& [key, value] : root.items()) {
    if (const auto problem = SetKey(key, value, &config)) return ToStatus(path, *problem);
  }
  // Shared keys that the other family's converter left behind do not matter here.
  if (config.family() == "llama") config.clear_layer_norm_epsilon();
  if (config.family() == "gpt2") {
    config.clear_rms_norm_eps();
    config.clear_rope_theta();
    config.clear_rope_scaling();
  }
  RETURN_IF_ERROR(FillModelDefaults(&config).WithContext(path));
  if (auto problem = FindModelProblem(config)) {
    for (const auto& [key, value] : root.items()) {  // by the name that it has in the file
      if (CanonicalModelKey(key) != problem->key) continue;
      problem->key = key;
      break;
    }
    return ToStatus(path, *problem);
  }
  return config;
}

std::string ToHuggingFaceConfigJson(const proto::ModelConfig& c, const std::string& dtype) {
  const auto token = [](int64_t id) { return id < 0 ? Json(nullptr) : Json(id); };
  const bool is_llama = c.family() == "llama";
  Json j;
  j["architectures"] = {is_llama ? "LlamaForCausalLM" : "GPT2LMHeadModel"};
  j["model_type"] = c.family();
  j["vocab_size"] = c.vocab_size();
  if (is_llama) {
    j["hidden_size"] = c.hidden_size();
    j["intermediate_size"] = c.intermediate_size();
    j["num_hidden_layers"] = c.num_hidden_layers();
    j["num_attention_heads"] = c.num_attention_heads();
    j["num_key_value_heads"] = c.num_key_value_heads();
    j["head_dim"] = c.head_dim();
    j["max_position_embeddings"] = c.max_position_embeddings();
    j["hidden_act"] = c.hidden_act();
    j["rms_norm_eps"] = c.rms_norm_eps();
    j["attention_bias"] = c.attention_bias();
    j["mlp_bias"] = c.mlp_bias();
    j["attention_dropout"] = 0.0;
    // Both forms: transformers 4 reads the first two, 5 the third.
    j["rope_theta"] = c.rope_theta();
    const auto& rope = c.rope_scaling();
    Json scaling = {{"rope_type", rope.rope_type()}};
    if (rope.rope_type() != "default") scaling["factor"] = rope.factor();
    if (rope.rope_type() == "llama3") {
      scaling["low_freq_factor"] = rope.low_freq_factor();
      scaling["high_freq_factor"] = rope.high_freq_factor();
      scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings();
    }
    j["rope_scaling"] = rope.rope_type() == "default" ? Json(nullptr) : scaling;
    scaling["rope_theta"] = c.rope_theta();
    j["rope_parameters"] = scaling;
  } else {
    j["n_embd"] = c.hidden_size();
    j["n_inner"] = c.intermediate_size();
    j["n_layer"] = c.num_hidden_layers();
    j["n_head"] = c.num_attention_heads();
    j["n_positions"] = c.max_position_embeddings();
    j["activation_function"] = c.hidden_act();
    j["layer_norm_epsilon"] = c.layer_norm_epsilon();
    j["attn_pdrop"] = j["embd_pdrop"] = j["resid_pdrop"] = 0.0;
  }
  j["initializer_range"] = c.initializer_range();
  j["tie_word_embeddings"] = c.tie_word_embeddings();
  j["bos_token_id"] = token(c.bos_token_id());
  j["eos_token_id"] = token(c.eos_token_id());
  j["pad_token_id"] = token(c.pad_token_id());
  // "torch_dtype" is what transformers before 4.56 reads; later ones take either.
  j["torch_dtype"] = dtype;
  j["use_cache"] = true;
  return DumpJson(j, 2) + "\n";
}

}  // namespace trireme
