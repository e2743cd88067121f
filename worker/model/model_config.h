// What a model is made of: defaults of each family, checks, presets, and Hugging Face's config.json
// in both directions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/base/status.h"

namespace trireme::proto {
class Config;
class ModelConfig;
}  // namespace trireme::proto

namespace trireme {

// One thing wrong with a configuration. Callers put the place (file, line, section) before it.
struct ConfigProblem {
  std::string key;       // name of the field, or of a section's field: "num_attention_heads"
  std::string value;     // as the user would write it
  std::string expected;  // "a divisor of hidden_size (256)"
  StatusCode code = StatusCode::kInvalidArgument;  // or kNotBuilt

  // "num_attention_heads: 7: expected a divisor of hidden_size (256)".
  std::string ToString() const;
};

// Families this build can train and run, and all that the interface names.
const std::vector<std::string>& BuiltModelFamilies();
const std::vector<std::string>& KnownModelFamilies();

// A key of config.json as this project names it: "n_embd" -> "hidden_size". Keys that need no
// translation come back as they are.
std::string_view CanonicalModelKey(std::string_view key);

// Looks at a key of config.json that has no field here. Nothing: the key does not matter to this
// model, or `value_json` (compact JSON) is the one value that is built. Otherwise what is wrong.
// `known` tells whether the key is one of transformers' for the families that are built.
std::optional<ConfigProblem> CheckForeignModelKey(std::string_view key,
                                                  const std::string& value_json, bool* known);

// Keys of transformers that switch dropout on in training.
bool IsDropoutKey(std::string_view key);

// Fills every unset field: first from `preset`, then the family's defaults in transformers.
// Afterwards every field that the family has is set; token ids are -1 where there is none (also
// when the family's default does not fit the vocabulary). GPT-2 gets num_key_value_heads, head_dim
// and biases too, so that readers need no special case.
// Errors: kInvalidArgument (unknown family or preset, nothing to go on), kNotBuilt.
Status FillModelDefaults(proto::ModelConfig* config);

// True when the shape is known: nothing to be read from elsewhere (`from`), or already filled in.
bool ModelIsResolved(const proto::ModelConfig& config);

// Checks a filled-in configuration on its own: ranges, divisibility, what is not built.
std::optional<ConfigProblem> FindModelProblem(const proto::ModelConfig& config);

// The fields that this family does not have but that are set ("rope_theta" for gpt2), checked
// before defaults are filled in.
std::optional<ConfigProblem> FindForeignField(const proto::ModelConfig& config);

// `config` names a model in `from` and may repeat keys of it; `loaded` is that model's, filled in.
// Afterwards `config` is `loaded` with `from` kept; nothing is done when a repeated key differs.
std::optional<ConfigProblem> ResolveModelFrom(const proto::ModelConfig& loaded,
                                              proto::ModelConfig* config);

// config.json of transformers 4 or 5, filled in and checked. `path` is for messages only.
// Errors: kDataLoss (not JSON, a wrong type, a shape that cannot be), kNotBuilt (a family or a
// feature that is known but not built), kInvalidArgument (a model_type that is not known).
Result<proto::ModelConfig> ParseHuggingFaceConfig(std::string_view json, const std::string& path);

// The config.json that transformers loads as this model. `config` is filled in. `dtype` is the
// weights' ("float32", "bfloat16").
std::string ToHuggingFaceConfigJson(const proto::ModelConfig& config,
                                    const std::string& dtype = "float32");

// Number of parameters, tied ones counted once. `config` is filled in.
int64_t ParameterCount(const proto::ModelConfig& config);
// The same without embeddings and head: N in most scaling laws.
int64_t NonEmbeddingParameterCount(const proto::ModelConfig& config);

// A named shape.
struct ModelPreset {
  std::string name;         // "llama-30m"
  std::string description;  // one line, with its source
};
const std::vector<ModelPreset>& ModelPresets();
// Sets the unset fields of `config` to those of the preset. False: no preset has this name.
bool ApplyModelPreset(const std::string& name, proto::ModelConfig* config);

// The name of `names` that is nearest to `word` by edit distance, or "" when none is near.
std::string NearestName(std::string_view word, const std::vector<std::string>& names);

}  // namespace trireme
