#include "worker/model/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "proto/config.pb.h"

namespace trireme {
namespace {

using testing::HasSubstr;

proto::ModelConfig Filled(const std::string& family) {
  proto::ModelConfig config;
  config.set_family(family);
  CHECK(FillModelDefaults(&config).ok());
  return config;
}

TEST(ModelConfigTest, DefaultsAreThoseOfTransformers) {
  const auto llama = Filled("llama");
  EXPECT_EQ(llama.hidden_size(), 4096);
  EXPECT_EQ(llama.intermediate_size(), 11008);
  EXPECT_EQ(llama.head_dim(), 128);
  EXPECT_EQ(llama.num_key_value_heads(), 32);
  EXPECT_EQ(llama.rms_norm_eps(), 1e-6);
  EXPECT_EQ(llama.rope_theta(), 10000);
  EXPECT_EQ(llama.max_position_embeddings(), 2048);
  EXPECT_FALSE(llama.tie_word_embeddings());
  EXPECT_EQ(llama.pad_token_id(), -1);
  const auto gpt2 = Filled("gpt2");
  EXPECT_EQ(gpt2.intermediate_size(), 3072);
  EXPECT_EQ(gpt2.head_dim(), 64);
  EXPECT_TRUE(gpt2.tie_word_embeddings());
  EXPECT_EQ(gpt2.eos_token_id(), 50256);
  EXPECT_EQ(ParameterCount(gpt2), 124439808);  // GPT-2 small
}

TEST(ModelConfigTest, FilledConfigurationsStayAsTheyAre) {
  for (const ModelPreset& preset : ModelPresets()) {
    proto::ModelConfig config;
    config.set_preset(preset.name);
    ASSERT_TRUE(FillModelDefaults(&config).ok()) << preset.name;
    EXPECT_FALSE(FindModelProblem(config).has_value())
        << preset.name << " " << FindModelProblem(config)->ToString();
    EXPECT_FALSE(FindForeignField(config).has_value()) << preset.name;
    proto::ModelConfig again = config;
    ASSERT_TRUE(FillModelDefaults(&again).ok());
    EXPECT_EQ(config.DebugString(), again.DebugString());
  }
}

TEST(ModelConfigTest, PresetsHaveTheirPublishedSizes) {
  const std::pair<const char*, int64_t> sizes[] = {{"gpt2-1558m", 1557611200},
                                                   {"llama-2-7b", 6738415616},
                                                   {"llama-3-8b", 8030261248},
                                                   {"llama-3.2-1b", 1235814400},
                                                   {"llama-3.1-405b", 405853388800}};
  for (const auto& [name, count] : sizes) {
    proto::ModelConfig config;
    config.set_preset(name);
    ASSERT_TRUE(FillModelDefaults(&config).ok());
    EXPECT_EQ(ParameterCount(config), count) << name;
  }
}

TEST(ModelConfigTest, KeysOfTheUserOverrideThePreset) {
  proto::ModelConfig config;
  config.set_preset("gpt2-124m");
  config.set_hidden_size(384);
  config.set_num_attention_heads(6);
  ASSERT_TRUE(FillModelDefaults(&config).ok());
  EXPECT_EQ(config.hidden_size(), 384);
  EXPECT_EQ(config.intermediate_size(), 4 * 384);
  EXPECT_EQ(config.num_hidden_layers(), 12);
}

TEST(ModelConfigTest, UnknownNamesAreRefusedWithTheNearest) {
  proto::ModelConfig config;
  config.set_preset("lama-30m");
  Status status = FillModelDefaults(&config);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("did you mean llama-30m?"));
  config.Clear();
  config.set_family("lamma");
  EXPECT_THAT(FillModelDefaults(&config).message(), HasSubstr("did you mean llama?"));
  config.set_family("qwen3");
  status = FillModelDefaults(&config);
  EXPECT_EQ(status.code(), StatusCode::kNotBuilt);
  EXPECT_THAT(status.message(), HasSubstr("qwen3: not built yet"));
}

TEST(ModelConfigTest, ShapesThatCannotBeAreNamed) {
  auto config = Filled("llama");
  config.set_num_key_value_heads(5);
  EXPECT_EQ(FindModelProblem(config)->ToString(),
            "num_key_value_heads: 5: expected a divisor of num_attention_heads (32)");
  config = Filled("gpt2");
  config.set_num_attention_heads(7);
  EXPECT_EQ(FindModelProblem(config)->key, "num_attention_heads");
  config = Filled("llama");
  config.set_hidden_act("gelu");
  EXPECT_EQ(FindModelProblem(config)->code, StatusCode::kNotBuilt);
  config = Filled("llama");
  config.set_vocab_size(0);
  EXPECT_EQ(FindModelProblem(config)->key, "vocab_size");
  config = Filled("llama");
  config.mutable_rope_scaling()->set_rope_type("yarn");
  EXPECT_EQ(FindModelProblem(config)->code, StatusCode::kNotBuilt);
}

TEST(ModelConfigTest, FromRefusesKeysThatContradictTheModel) {
  const auto loaded = Filled("gpt2");
  proto::ModelConfig config;
  config.set_from("somewhere");
  config.set_hidden_size(768);
  ASSERT_FALSE(ResolveModelFrom(loaded, &config));
  EXPECT_EQ(config.num_hidden_layers(), 12);
  EXPECT_EQ(config.from(), "somewhere");
  config.Clear();
  config.set_from("somewhere");
  config.set_hidden_size(512);
  EXPECT_EQ(ResolveModelFrom(loaded, &config)->ToString(),
            "hidden_size: 512: expected 768, as in model.from, or no such key");
  config.Clear();
  config.set_family("llama");
  EXPECT_EQ(ResolveModelFrom(loaded, &config)->ToString(),
            "family: llama: expected gpt2, as in model.from, or no such key");
}

TEST(HuggingFaceConfigTest, ErrorsCallAKeyAsTheFileDoes) {
  EXPECT_EQ(ParseHuggingFaceConfig(R"({"model_type": "gpt2", "n_embd": 64, "n_head": 7})", "hf")
                .status()
                .message(),
            "hf: n_head: 7: expected a divisor of hidden_size (64)");
  EXPECT_THAT(ParseHuggingFaceConfig(R"({"model_type": "qwen3"})", "hf").status().message(),
              testing::StartsWith("hf: model_type: qwen3: not built yet"));
  EXPECT_THAT(ParseHuggingFaceConfig(R"({"model_type": "lama"})", "hf").status().message(),
              testing::StartsWith("hf: model_type: lama: expected one of"));
}

TEST(HuggingFaceConfigTest, ReadsBothFormsOfRotaryParameters) {
  const auto old_form = ParseHuggingFaceConfig(
      R"({"model_type": "llama", "rope_theta": 500000.0, "head_dim": null,
          "eos_token_id": [128001, 128008], "bos_token_id": null, "vocab_size": 200000,
          "rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}})",
      "old");
  ASSERT_TRUE(old_form.ok()) << old_form.status().message();
  EXPECT_EQ(old_form->rope_theta(), 500000);
  EXPECT_EQ(old_form->rope_scaling().rope_type(), "llama3");
  EXPECT_EQ(old_form->rope_scaling().factor(), 8);
  EXPECT_EQ(old_form->head_dim(), 128);
  EXPECT_EQ(old_form->eos_token_id(), 128001);
  EXPECT_EQ(old_form->bos_token_id(), -1);
  const auto new_form = ParseHuggingFaceConfig(
      R"({"model_type": "llama", "eos_token_id": 128001, "bos_token_id": null,
          "vocab_size": 200000, "rope_parameters": {"rope_type": "llama3", "factor": 8.0,
          "rope_theta": 500000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}})",
      "new");
  ASSERT_TRUE(new_form.ok()) << new_form.status().message();
  EXPECT_EQ(old_form->DebugString(), new_form->DebugString());
}

TEST(HuggingFaceConfigTest, BadFilesAreRefusedWithOneLine) {
  const struct {
    const char* json;
    StatusCode code;
    const char* message;
  } cases[] = {
      {"{", StatusCode::kDataLoss, "c.json: not valid JSON"},
      {"[]", StatusCode::kDataLoss, "c.json: expected a JSON object"},
      {"{}", StatusCode::kDataLoss, "c.json: model_type: expected the name of a family"},
      {R"({"model_type": "qwen2"})", StatusCode::kNotBuilt, "qwen2: not built yet"},
      {R"({"model_type": "abc"})", StatusCode::kInvalidArgument,
       "model_type: abc: expected one of"},
      {R"({"model_type": "gpt2", "n_embd": "x"})", StatusCode::kDataLoss,
       "c.json: n_embd: \"x\": expected a whole number"},
      {R"({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": true})", StatusCode::kNotBuilt,
       "c.json: scale_attn_by_inverse_layer_idx: true: not built yet"},
      {R"({"model_type": "llama", "sliding_window": 4096})", StatusCode::kNotBuilt,
       "sliding_window: 4096: not built yet"},
      {R"({"model_type": "llama", "quantization_config": {"bits": 4}})", StatusCode::kNotBuilt,
       "quantization_config"},
      {R"({"model_type": "llama", "hidden_size": -4})", StatusCode::kDataLoss, "hidden_size: -4"},
  };
  for (const auto& c : cases) {
    const auto result = ParseHuggingFaceConfig(c.json, "c.json");
    ASSERT_FALSE(result.ok()) << c.json;
    EXPECT_EQ(result.status().code(), c.code) << c.json;
    EXPECT_THAT(result.status().message(), HasSubstr(c.message));
  }
}

TEST(HuggingFaceConfigTest, WhatIsWrittenReadsBackTheSame) {
  for (const ModelPreset& preset : ModelPresets()) {
    proto::ModelConfig config;
    config.set_preset(preset.name);
    ASSERT_TRUE(FillModelDefaults(&config).ok());
    const auto again = ParseHuggingFaceConfig(ToHuggingFaceConfigJson(config), "written");
    ASSERT_TRUE(again.ok()) << again.status().message();
    config.clear_preset();
    EXPECT_EQ(config.DebugString(), again->DebugString());
  }
}

TEST(HuggingFaceConfigTest, ReadsEveryFixtureOfABuiltFamily) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  std::set<std::string> missing(BuiltModelFamilies().begin(), BuiltModelFamilies().end());
  for (const auto& folder :
       std::filesystem::directory_iterator(std::filesystem::path(shared) / "fixtures")) {
    const auto path = folder.path() / "model" / "config.json";
    if (!std::filesystem::exists(path)) continue;
    std::stringstream text;
    text << std::ifstream(path).rdbuf();
    const auto config = ParseHuggingFaceConfig(text.str(), path);
    if (config.status().code() == StatusCode::kNotBuilt) continue;         // a later family
    if (config.status().code() == StatusCode::kInvalidArgument) continue;  // batchnorm_gpt
    ASSERT_TRUE(config.ok()) << config.status().message();
    missing.erase(config->family());
  }
  EXPECT_TRUE(missing.empty()) << "no fixture of " << *missing.begin();
}

}  // namespace
}  // namespace trireme
