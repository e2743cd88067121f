// Named shapes. A preset is a YAML-like list of fields, so that it reads as a user would write it.
#include <algorithm>
#include <map>

#include "proto/config.pb.h"
#include "worker/model/model_config.h"

namespace trireme {
namespace {

struct PresetShape {
  const char* family;
  int64_t vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, positions;
};

struct Entry {
  ModelPreset preset;
  PresetShape shape;
  void (*more)(proto::ModelConfig*) = nullptr;  // fields beyond the shape
};

PresetShape Gpt2(int64_t hidden, int64_t layers, int64_t heads, int64_t positions) {
  return {"gpt2", 50257, hidden, 4 * hidden, layers, heads, heads, positions};
}

PresetShape Llama(int64_t vocab, int64_t hidden, int64_t ffn, int64_t layers, int64_t heads,
                  int64_t kv_heads, int64_t positions) {
  return {"llama", vocab, hidden, ffn, layers, heads, kv_heads, positions};
}

void Llama2(proto::ModelConfig* config) { config->set_rms_norm_eps(1e-5); }

void Llama3(proto::ModelConfig* config) {
  config->set_rms_norm_eps(1e-5);
  config->set_rope_theta(500000.0);
  config->set_bos_token_id(128000);
  config->set_eos_token_id(128001);
}

void ScaledRope(proto::ModelConfig* config, double factor) {
  Llama3(config);
  auto* rope = config->mutable_rope_scaling();
  rope->set_rope_type("llama3");
  rope->set_factor(factor);
  rope->set_low_freq_factor(1.0);
  rope->set_high_freq_factor(4.0);
  rope->set_original_max_position_embeddings(8192);
}

void Llama31(proto::ModelConfig* config) { ScaledRope(config, 8.0); }

void Llama32(proto::ModelConfig* config) {
  ScaledRope(config, 32.0);
  config->set_tie_word_embeddings(true);
}

// GPT-3's table 2.1 (Brown et al. 2020, arXiv:2005.14165), dense attention throughout. Two rows are
// not consistent there: XL's 24 heads of 128 do not make 2048, 13B's width is no multiple of 40.
const std::vector<Entry>& Entries() {
  static const auto* entries = new std::vector<Entry>{
      {{"llama-5m", "5.2M: for tests and first steps"}, Llama(4096, 256, 704, 4, 8, 4, 4096)},
      {{"llama-30m", "32M: trains on a laptop"}, Llama(8192, 512, 1408, 8, 8, 4, 4096)},
      {{"tinyllama-1.1b", "TinyLlama 1.1B"}, Llama(32000, 2048, 5632, 22, 32, 4, 2048), Llama2},
      {{"llama-2-7b", "Llama 2 7B"}, Llama(32000, 4096, 11008, 32, 32, 32, 4096), Llama2},
      {{"llama-2-13b", "Llama 2 13B"}, Llama(32000, 5120, 13824, 40, 40, 40, 4096), Llama2},
      {{"llama-2-70b", "Llama 2 70B"}, Llama(32000, 8192, 28672, 80, 64, 8, 4096), Llama2},
      {{"llama-3-8b", "Llama 3 8B"}, Llama(128256, 4096, 14336, 32, 32, 8, 8192), Llama3},
      {{"llama-3-70b", "Llama 3 70B"}, Llama(128256, 8192, 28672, 80, 64, 8, 8192), Llama3},
      {{"llama-3.1-405b", "Llama 3.1 405B"},
       Llama(128256, 16384, 53248, 126, 128, 8, 131072),
       Llama31},
      {{"llama-3.2-1b", "Llama 3.2 1B, tied"},
       Llama(128256, 2048, 8192, 16, 32, 8, 131072),
       Llama32},
      {{"llama-3.2-3b", "Llama 3.2 3B, tied"},
       Llama(128256, 3072, 8192, 28, 24, 8, 131072),
       Llama32},
      {{"gpt2-124m", "GPT-2 small"}, Gpt2(768, 12, 12, 1024)},
      {{"gpt2-350m", "GPT-2 medium"}, Gpt2(1024, 24, 16, 1024)},
      {{"gpt2-774m", "GPT-2 large"}, Gpt2(1280, 36, 20, 1024)},
      {{"gpt2-1558m", "GPT-2 XL"}, Gpt2(1600, 48, 25, 1024)},
      {{"gpt3-125m", "GPT-3 Small"}, Gpt2(768, 12, 12, 2048)},
      {{"gpt3-350m", "GPT-3 Medium"}, Gpt2(1024, 24, 16, 2048)},
      {{"gpt3-760m", "GPT-3 Large"}, Gpt2(1536, 24, 16, 2048)},
      {{"gpt3-1.3b", "GPT-3 XL, 16 heads of 128"}, Gpt2(2048, 24, 16, 2048)},
      {{"gpt3-2.7b", "GPT-3 2.7B"}, Gpt2(2560, 32, 32, 2048)},
      {{"gpt3-6.7b", "GPT-3 6.7B"}, Gpt2(4096, 32, 32, 2048)},
      {{"gpt3-13b", "GPT-3 13B, width 5120"}, Gpt2(5120, 40, 40, 2048)},
      {{"gpt3-175b", "GPT-3 175B"}, Gpt2(12288, 96, 96, 2048)},
  };
  return *entries;
}

}  // namespace

const std::vector<ModelPreset>& ModelPresets() {
  static const auto* presets = [] {
    auto* all = new std::vector<ModelPreset>;
    for (const Entry& entry : Entries()) all->push_back(entry.preset);
    return all;
  }();
  return *presets;
}

bool ApplyModelPreset(const std::string& name, proto::ModelConfig* config) {
  const auto& entries = Entries();
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const Entry& entry) { return entry.preset.name == name; });
  if (found == entries.end()) return false;
  const PresetShape& shape = found->shape;
  proto::ModelConfig result;
  result.set_family(shape.family);
  result.set_vocab_size(shape.vocab_size);
  result.set_hidden_size(shape.hidden_size);
  result.set_num_hidden_layers(shape.layers);
  result.set_num_attention_heads(shape.heads);
  result.set_max_position_embeddings(shape.positions);
  // Widths that follow from others are left to the defaults where the user changes those others.
  if (!(config->has_hidden_size() && result.family() == "gpt2")) {
    result.set_intermediate_size(shape.intermediate_size);
  }
  if (result.family() == "llama" && !config->has_num_attention_heads()) {
    result.set_num_key_value_heads(shape.kv_heads);
  }
  if (found->more != nullptr) found->more(&result);
  if (config->has_rope_scaling()) result.clear_rope_scaling();
  result.MergeFrom(*config);
  *config = std::move(result);
  return true;
}

}  // namespace trireme
