#include "cli/config_loader.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "cli/config_folders.h"
#include "cli/config_keys.h"
#include "proto/config.pb.h"
#include "tests/cli_config/runs.h"
#include "worker/model/model_config.h"

namespace trireme {
namespace {

using google::protobuf::util::MessageDifferencer;
using testing::HasSubstr;

TEST(ConfigLoaderTest, ReadsWhatIsWrittenAndNothingElse) {
  const proto::Config config = Load(kRun);
  EXPECT_EQ(config.run().dir(), "runs/demo");
  EXPECT_EQ(config.run().seed(), 7u);
  EXPECT_EQ(config.model().hidden_size(), 256);
  EXPECT_EQ(config.data().train(0).path(), "data/corpus_train");
  EXPECT_EQ(config.optimizer().lr(), 1e-3);
  EXPECT_FALSE(config.batch().has_microbatch_sequences() &&
               config.batch().microbatch_sequences() != 4);
  EXPECT_FALSE(config.optimizer().has_eps());
}

TEST(ConfigLoaderTest, DefaultsAreFilledIn) {
  proto::Config config = Load(kRun);
  ASSERT_TRUE(FillDefaults(&config).ok());
  EXPECT_EQ(config.objective(), "causal");
  EXPECT_EQ(config.optimizer().betas(1), 0.95);
  EXPECT_EQ(config.optimizer().eps(), 1e-8);
  EXPECT_EQ(config.batch().sum_leaves(), "8");
  EXPECT_EQ(config.layout().zero(), 1);
  EXPECT_EQ(config.layout().pipeline_schedule(), "1f1b");
  EXPECT_EQ(config.checkpoint().store(), "runs/demo/checkpoints");
  EXPECT_EQ(config.data().train(0).weight(), 1.0);
  EXPECT_TRUE(config.data().shuffle());
  EXPECT_EQ(config.device(), "cpu");
  EXPECT_EQ(config.model().max_position_embeddings(), 2048);
  EXPECT_EQ(WorkerCount(config), 4);
  EXPECT_TRUE(ValidateConfig(config).ok());
}

TEST(ConfigLoaderTest, RunDirAndSeedHaveDefaults) {
  proto::Config config = Load("model: {preset: llama-5m}");
  EXPECT_EQ(config.run().dir(), "runs/run");
  ASSERT_TRUE(FillDefaults(&config).ok());
  EXPECT_EQ(config.run().seed(), 1234u);
  config = Load("model: {preset: llama-5m}", {"run.seed=0"});
  ASSERT_TRUE(FillDefaults(&config).ok());
  EXPECT_EQ(config.run().seed(), 0u);
}

TEST(ConfigLoaderTest, MicrobatchDefaultFitsTheLayout) {
  proto::Config config =
      Load("model: {preset: llama-5m}\nbatch: {sequences: 6}\nlayout: {data: 2}\n");
  ASSERT_TRUE(FillDefaults(&config).ok());
  EXPECT_EQ(config.batch().microbatch_sequences(), 3);
  EXPECT_EQ(config.batch().sum_leaves(), "2");
}

TEST(ConfigLoaderTest, SumLeavesFollowTheRule) {
  EXPECT_EQ(ResolveSumLeaves(8, 1), 8);
  EXPECT_EQ(ResolveSumLeaves(32, 2), 8);
  EXPECT_EQ(ResolveSumLeaves(32, 9), 16);
  EXPECT_EQ(ResolveSumLeaves(32, 16), 16);
  EXPECT_EQ(ResolveSumLeaves(12, 2), 4);
  EXPECT_EQ(ResolveSumLeaves(7, 1), 1);
}

TEST(ConfigLoaderTest, WhatIsWrittenOutLoadsBackTheSame) {
  proto::Config config =
      Load(kRun, {"data.tokenizer=some: odd #name", "data.validation=[{path: a, weight: 0.3}, b]",
                  "optimizer.lr=0.1234567890123456789"});
  ASSERT_TRUE(FillDefaults(&config).ok());
  const std::string yaml = ConfigToYaml(config, "trireme 0.1.0\nsecond line");
  EXPECT_THAT(yaml, HasSubstr("# trireme 0.1.0\n# second line\nrun:\n  dir: runs/demo\n"));
  proto::Config again = Load(yaml);
  EXPECT_TRUE(MessageDifferencer::Equals(config, again)) << yaml << again.DebugString();
  ASSERT_TRUE(FillDefaults(&again).ok());
  EXPECT_TRUE(MessageDifferencer::Equals(config, again));
}

TEST(ConfigLoaderTest, EveryPresetLoadsBackTheSame) {
  for (const ModelPreset& preset : ModelPresets()) {
    proto::Config config = Load("model: {preset: " + preset.name + "}");
    ASSERT_TRUE(FillDefaults(&config).ok());
    EXPECT_TRUE(MessageDifferencer::Equals(config, Load(ConfigToYaml(config)))) << preset.name;
  }
}

TEST(ConfigLoaderTest, OverridesWinAndMayClear) {
  const proto::Config config =
      Load(kRun, {"optimizer.lr=3e-4", "optimizer.betas=[0.8, 0.9]", "data.train=other",
                  "batch.microbatch_sequences=", "layout={data: 1}"});
  EXPECT_EQ(config.optimizer().lr(), 3e-4);
  EXPECT_EQ(config.optimizer().betas(0), 0.8);
  ASSERT_EQ(config.data().train_size(), 1);
  EXPECT_EQ(config.data().train(0).path(), "other");
  EXPECT_FALSE(config.batch().has_microbatch_sequences());
  EXPECT_EQ(config.layout().data(), 1);
  EXPECT_EQ(config.layout().tensor(), 2);
}

TEST(ConfigLoaderTest, AStoreInsideTheRunMovesWithIt) {
  const std::string yaml = std::string(kRun) + "checkpoint: {store: runs/demo/checkpoints}\n";
  EXPECT_EQ(Load(yaml, {"run.dir=runs/new"}).checkpoint().store(), "runs/new/checkpoints");
  EXPECT_EQ(Load(yaml, {"run.dir=runs/new", "checkpoint.store=elsewhere"}).checkpoint().store(),
            "elsewhere");
  const std::string outside = std::string(kRun) + "checkpoint: {store: runs/demo2}\n";
  EXPECT_EQ(Load(outside, {"run.dir=runs/new"}).checkpoint().store(), "runs/demo2");
}

// To repeat a run elsewhere its own config.yaml is enough, wherever its store is.
TEST(ConfigLoaderTest, AStoreOfARunsOwnConfigIsNotThatOfAnother) {
  const std::string yaml = std::string(kRun) + "checkpoint: {store: stores/one}\n";
  const auto store = [&](const std::string& name, const std::vector<std::string>& overrides) {
    const auto config = ParseConfig(yaml, name, overrides);
    EXPECT_TRUE(config.ok()) << config.status().message();
    return config.value()->checkpoint().store();
  };
  EXPECT_EQ(store("runs/demo/config.yaml", {}), "stores/one");
  EXPECT_EQ(store("runs/demo/config.yaml", {"run.dir=runs/demo"}), "stores/one");
  EXPECT_EQ(store("runs/demo/config.yaml", {"run.dir=runs/new"}), "");
  EXPECT_EQ(store("./runs/demo/config.yaml", {"run.dir=runs/new"}), "");
  EXPECT_EQ(store("runs/demo/config.yaml", {"run.dir=runs/new", "checkpoint.store=stores/one"}),
            "stores/one");
  EXPECT_EQ(store("/home/me/runs/demo/config.yaml", {"run.dir=runs/new"}), "");
  EXPECT_EQ(store("run.yaml", {"run.dir=runs/new"}), "stores/one") << "a user's own file";
  EXPECT_EQ(store("other/config.yaml", {"run.dir=runs/new"}), "stores/one");
}

TEST(ConfigPlacesTest, FoldersAreComparedAsTheyAreWritten) {
  for (const auto& [a, b] : {std::pair{"runs/a", "runs/a/"},
                             {"./runs/a", "runs/a"},
                             {"/home/me/runs/a", "runs/a"},
                             {"runs/a", "file:///home/me/runs/a"},
                             {"s3://bucket/a", "s3://bucket/a"}}) {
    EXPECT_TRUE(CanBeSameFolder(a, b) && CanBeSameFolder(b, a)) << a << " " << b;
  }
  for (const auto& [a, b] : {std::pair{"runs/a", "runs/b"},
                             {"/home/me/runs/a", "uns/a"},
                             {"/home/me/runs/a", "/home/you/runs/a"},
                             {"s3://bucket/a", "bucket/a"}}) {
    EXPECT_FALSE(CanBeSameFolder(a, b) || CanBeSameFolder(b, a)) << a << " " << b;
  }
  EXPECT_EQ(RestInFolder("file:///runs/a/checkpoints", "/runs/a"), "/checkpoints");
  EXPECT_EQ(RestInFolder("runs/a/checkpoints", "runs/a/"), "/checkpoints");
  EXPECT_EQ(RestInFolder("runs/a", "runs/a"), "");
  EXPECT_EQ(RestInFolder("runs/ab", "runs/a"), std::nullopt);
  EXPECT_EQ(RestInFolder("runs/a", ""), std::nullopt);
}

// As the schedules are published: cosine ends at a tenth, a line and a decay at nothing.
TEST(ConfigLoaderTest, TheLastRateThatIsLeftOutIsTheSchedules) {
  for (const auto& [name, ratio] : {std::pair{"cosine", 0.1}, std::pair{"polynomial", 0.1},
                                    std::pair{"linear", 0.0}, std::pair{"wsd", 0.0}}) {
    for (const bool is_written : {false, true}) {
      proto::Config config = Load(StrCat("model: {preset: llama-5m}\nlr_schedule: {name: ", name,
                                         is_written ? ", final_lr_ratio: 0.5}" : "}"));
      ASSERT_TRUE(FillDefaults(&config).ok());
      EXPECT_EQ(config.lr_schedule().final_lr_ratio(), is_written ? 0.5 : ratio) << name;
    }
  }
}

TEST(ConfigLoaderTest, KeysOfHuggingFaceAreUnderstood) {
  proto::Config config = Load(R"(model:
  model_type: gpt2
  architectures: [GPT2LMHeadModel]
  n_embd: 64
  n_layer: 2
  n_head: 4
  n_positions: 128
  n_inner: null
  activation_function: gelu_new
  attn_pdrop: 0.0
  vocab_size: 100
)");
  ASSERT_TRUE(FillDefaults(&config).ok());
  EXPECT_EQ(config.model().family(), "gpt2");
  EXPECT_EQ(config.model().hidden_size(), 64);
  EXPECT_EQ(config.model().intermediate_size(), 256);
  EXPECT_EQ(config.model().max_position_embeddings(), 128);
  EXPECT_EQ(config.data().sequence_length(), 128);
  config = Load(
      "model: {family: llama, rope_parameters: {rope_theta: 5.0e5, rope_type: linear, "
      "factor: 2}}");
  EXPECT_EQ(config.model().rope_theta(), 5e5);
  EXPECT_EQ(config.model().rope_scaling().factor(), 2);
}

// GPT-2's names its length twice; Llama 3's chat models have several ends, of which the first
// counts.
TEST(ConfigLoaderTest, PublishedConfigsMayBePasted) {
  proto::Config config = Load(R"(model: {
  "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
  "eos_token_id": 50256, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_positions": 1024,
  "summary_activation": null, "task_specific_params": {"text-generation": {"max_length": 50}},
  "vocab_size": 50257})");
  EXPECT_EQ(config.model().max_position_embeddings(), 1024);
  EXPECT_EQ(config.model().eos_token_id(), 50256);
  config =
      Load("model: {model_type: llama, bos_token_id: 1, eos_token_id: [2, 7], pad_token_id: null}");
  EXPECT_EQ(config.model().eos_token_id(), 2);
}

TEST(ConfigLoaderTest, FromLeavesTheModelToWhoeverReadsIt) {
  proto::Config config = Load(
      "model: {from: runs/demo, family: llama}\n"
      "data: {sequence_length: 100000}\n");
  ASSERT_TRUE(FillDefaults(&config).ok());
  EXPECT_FALSE(config.model().has_hidden_size());
}

TEST(ConfigLoaderTest, EveryScheduleNameIsAccepted) {
  for (const std::string& name : SplitNames(FindConfigKey("lr_schedule.name")->choices)) {
    proto::Config config = Load(kRun, {"lr_schedule.name=" + name});
    ASSERT_TRUE(FillDefaults(&config).ok());
    EXPECT_TRUE(ValidateConfig(config).ok()) << ValidateConfig(config).message();
  }
}

// The table of keys and the messages must not drift apart.
TEST(ConfigKeysTest, EveryFieldHasARowAndEveryRowAField) {
  std::vector<std::string> fields;
  const std::function<void(const google::protobuf::Descriptor*, const std::string&)> walk =
      [&](const auto* descriptor, const std::string& prefix) {
        for (int i = 0; i < descriptor->field_count(); ++i) {
          const auto* field = descriptor->field(i);
          if (field->message_type() != nullptr) {
            walk(field->message_type(), prefix + field->name() + ".");
          } else {
            fields.push_back(prefix + field->name());
          }
        }
      };
  walk(proto::Config::descriptor(), "");
  std::vector<std::string> rows;
  for (const ConfigKey& key : ConfigKeys()) {
    rows.emplace_back(key.path);
    EXPECT_FALSE(key.meaning.empty()) << key.path;
  }
  EXPECT_THAT(rows, testing::UnorderedElementsAreArray(fields));
}

TEST(ConfigKeysTest, WhatDoesNothingYetSaysSo) {
  for (const char* path : {"recovery.spares", "recovery.redundancy"}) {
    EXPECT_THAT(FindConfigKey(path)->meaning, testing::HasSubstr("not built yet")) << path;
  }
}

TEST(ExamplesTest, EveryExampleLoads) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(TRIREME_SOURCE_DIR "/examples")) {
    if (entry.path().extension() != ".yaml") continue;
    const auto config = LoadConfig(entry.path().string(), {});
    EXPECT_TRUE(config.ok()) << config.status().message();
    ++count;
  }
  EXPECT_GE(count, 4);
}

}  // namespace
}  // namespace trireme
