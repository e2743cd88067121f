#include "cli/config_loader.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include "cli/config_folders.h"
#include "cli/config_keys.h"
#include "proto/config.pb.h"
#include "worker/model/model_config.h"

namespace trireme {
namespace {

using google::protobuf::util::MessageDifferencer;
using testing::HasSubstr;

// A run that is right. Cases change one line of it.
constexpr char kRun[] = R"(run: {dir: runs/demo, seed: 7}
model:
  family: llama
  vocab_size: 4096
  hidden_size: 256
  intermediate_size: 704
  num_hidden_layers: 4
  num_attention_heads: 8
  num_key_value_heads: 4
data:
  train: [{path: data/corpus_train}]
  sequence_length: 256
batch: {sequences: 32, microbatch_sequences: 4}
optimizer: {lr: 1.0e-3}
lr_schedule: {name: cosine, warmup_steps: 20, steps: 200}
layout: {data: 2, tensor: 2}
)";

proto::Config Load(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  auto config = ParseConfig(yaml, "run.yaml", overrides);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? **config : proto::Config();
}

Status LoadError(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return ParseConfig(yaml, "run.yaml", overrides).status();
}

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

TEST(ConfigLoaderTest, MessagesCallAKeyAsItWasWritten) {
  const std::string gpt2 = "model:\n  model_type: gpt2\n  n_embd: 64\n  n_head: 4\n";
  const struct {
    const char* from;
    const char* to;
    const char* message;
  } cases[] = {
      {"n_head: 4", "n_head: 7",
       "run.yaml:4: model.n_head: 7: expected a divisor of hidden_size (64)"},
      {"n_embd: 64", "n_embd: wide", "run.yaml:3: model.n_embd: wide: expected a whole number"},
      {"n_embd: 64", "n_embd:", "run.yaml:3: model.n_embd: nothing: expected a whole number"},
      {"n_embd: 64", "n_embd: 64\n  hidden_size: 64",
       "run.yaml:4: model.hidden_size: 64: expected each key once"},
      {"gpt2", "gtp2", "run.yaml:2: model.model_type: gtp2: expected one of gpt2, llama"},
      {"gpt2", "qwen3", "run.yaml:2: model.model_type: qwen3: not built yet"},
      {"n_head: 4", "n_head: 4\n  activation_function: relu",
       "run.yaml:5: model.activation_function: relu: not built yet"},
      {"gpt2\n  n_embd: 64\n  n_head: 4", "llama\n  rope_parameters: {type: yarn, factor: 2}",
       "run.yaml:3: model.rope_parameters.type: yarn: not built yet"},
      {"gpt2\n  n_embd: 64\n  n_head: 4", "llama\n  rope_parameters: {rope_theta: -1}",
       "run.yaml:3: model.rope_parameters.rope_theta: -1: expected a number above 0"},
  };
  for (const auto& c : cases) {
    std::string yaml = gpt2;
    yaml.replace(yaml.find(c.from), std::string(c.from).size(), c.to);
    EXPECT_THAT(LoadError(yaml).message(), HasSubstr(c.message));
  }
  EXPECT_THAT(LoadError(gpt2, {"model.n_layer=0"}).message(),
              HasSubstr("--set model.n_layer=0: model.n_layer: 0: expected a whole number"));
}

TEST(ConfigLoaderTest, DropoutIsWarnedOf) {
  const std::string yaml =
      "model:\n  family: gpt2\n  resid_pdrop: 0.1\n  embd_pdrop: 0.0\n  attn_pdrop: 0\n"
      "  hidden_dropout: 0.2\n";
  const auto warnings = [&](const std::vector<std::string>& overrides) {
    ConfigPlaces places;
    const auto config = ParseConfig(yaml, "run.yaml", overrides, &places);
    EXPECT_TRUE(config.ok()) << config.status().message();
    return places.Warnings();
  };
  EXPECT_THAT(warnings({}),
              testing::ElementsAre("run.yaml:6: model.hidden_dropout: 0.2: dropout is not built "
                                   "yet; the run trains without it",
                                   "run.yaml:3: model.resid_pdrop: 0.1: dropout is not built yet; "
                                   "the run trains without it"));
  EXPECT_THAT(
      warnings({"model.resid_pdrop=0", "model.hidden_dropout=0.0", "model.attention_dropout=0.5"}),
      testing::ElementsAre("--set model.attention_dropout=0.5: model.attention_dropout: "
                           "0.5: dropout is not built yet; the run trains without it"));
}

TEST(ConfigLoaderTest, PlacesAreThoseOfTheKeyOrOfWhatIsAroundIt) {
  ConfigPlaces places;
  ASSERT_TRUE(ParseConfig(kRun, "run.yaml", {"optimizer.lr=0.1"}, &places).ok());
  EXPECT_EQ(places.PlaceOf("model.vocab_size"), "run.yaml:4");
  EXPECT_EQ(places.PlaceOf("model.head_dim"), "run.yaml:2");
  EXPECT_EQ(places.PlaceOf("data.train[0].weight"), "run.yaml:11");
  EXPECT_EQ(places.PlaceOf("optimizer.lr"), "--set optimizer.lr=0.1");
  EXPECT_EQ(places.PlaceOf("checkpoint.store"), "run.yaml");
}

TEST(ConfigLoaderTest, ASecondDocumentIsRefused) {
  EXPECT_EQ(LoadError(std::string(kRun) + "---\noptimizer: {lr: 3}\n").message(),
            "run.yaml:17: a second YAML document: expected one");
  EXPECT_TRUE(ParseConfig("---\n" + std::string(kRun), "run.yaml", {}).ok());
}

// yaml-cpp stands still at such a comma, and its reader of all documents fills the memory.
TEST(ConfigLoaderTest, ATextThatStopsBeingYamlAtACommaIsRefused) {
  EXPECT_EQ(LoadError(", b]\n" + std::string(kRun)).message(),
            "run.yaml:1: not valid YAML: a key or a value was expected");
  EXPECT_EQ(LoadError("- a\n, b\n").message(),
            "run.yaml:2: not valid YAML: a key or a value was expected");
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

TEST(ConfigLoaderTest, AKeyIsAName) {
  EXPECT_EQ(LoadError(": 3\n").message(), "run.yaml:1: <key>: nothing: expected a name");
  EXPECT_EQ(LoadError("model: {[a]: 3}\n").message(),
            "run.yaml:1: model.<key>: a list: expected a name");
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

TEST(ConfigLoaderTest, FromLeavesTheModelToWhoeverReadsIt) {
  proto::Config config = Load(
      "model: {from: runs/demo, family: llama}\n"
      "data: {sequence_length: 100000}\n");
  ASSERT_TRUE(FillDefaults(&config).ok());
  EXPECT_FALSE(config.model().has_hidden_size());
}

TEST(ConfigLoaderTest, ErrorsNameFileLineKeyValueAndNearestName) {
  const struct {
    const char* from;
    const char* to;
    const char* message;
  } cases[] = {
      {"hidden_size:", "hiden_size:",
       "run.yaml:5: model.hiden_size: 256: expected a known key; did you mean hidden_size?"},
      {"optimizer:", "optimiser:",
       "run.yaml:14: optimiser: a section: expected a known key; did you mean optimizer?"},
      {"run: {dir: runs/demo, seed: 7}", "run: {dir: runs/demo, lr: 7}",
       "run.yaml:1: run.lr: 7: expected a known key; did you mean optimizer.lr?"},
      {"vocab_size: 4096", "vocab_size:",
       "run.yaml:4: model.vocab_size: nothing: expected a whole number, or no such key for its "
       "default"},
      {"vocab_size: 4096", "vocab_size: many",
       "run.yaml:4: model.vocab_size: many: expected a whole number"},
      {"vocab_size: 4096", "vocab_size: 0",
       "run.yaml:4: model.vocab_size: 0: expected a whole number from 1 to"},
      {"vocab_size: 4096", "vocab_size: 4096.5",
       "run.yaml:4: model.vocab_size: 4096.5: expected a whole number"},
      {"family: llama", "family: lama",
       "run.yaml:3: model.family: lama: expected one of gpt2, llama; did you mean llama?"},
      {"family: llama", "hidden_act: relu",
       "run.yaml:2: model.family: not set: expected one of gpt2, llama"},
      {"num_key_value_heads: 4", "num_key_value_heads: 3",
       "run.yaml:9: model.num_key_value_heads: 3: expected a divisor of num_attention_heads (8)"},
      {"num_key_value_heads: 4", "num_key_value_heads: 8\n  num_key_value_heads: 4",
       "run.yaml:10: model.num_key_value_heads: 4: expected each key once"},
      {"num_key_value_heads: 4", "layer_norm_epsilon: 1e-5",
       "run.yaml:9: model.layer_norm_epsilon: set: expected no such key for family llama"},
      {"train: [{path: data/corpus_train}]", "train: [{weight: 2}]",
       "run.yaml:11: data.train[0].path: not set: expected the path of TOKENS"},
      {"train: [{path: data/corpus_train}]", "train:\n  - {path: a}\n  - {path: b, weight: -1}",
       "run.yaml:13: data.train[1].weight: -1: expected a number above 0"},
      {"data:\n", "data: 3\nbatch:\n", "run.yaml:10: data: 3: expected a section of keys"},
      {"layout: {data: 2, tensor: 2}", "layout: [1, 2]",
       "run.yaml:16: layout: a list: expected a section of keys"},
      {"layout: {data: 2, tensor: 2}", "layout: {data: 2, tensor: 2",
       "run.yaml:17: not valid YAML: "},
  };
  for (const auto& c : cases) {
    std::string yaml = kRun;
    const size_t at = yaml.find(c.from);
    if (at == std::string::npos) continue;
    yaml.replace(at, std::string(c.from).size(), c.to);
    const Status status = LoadError(yaml);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << c.to;
    EXPECT_THAT(status.message(), HasSubstr(c.message));
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
  }
}

TEST(ConfigLoaderTest, ContradictionsAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"batch.sequences=30",
       "--set batch.sequences=30: batch.sequences: 30: expected a multiple of "
       "batch.microbatch_sequences (4)"},
      {"layout.data=16", "layout.data: 16: expected at most the 8 microbatches of a step"},
      {"batch.sum_leaves=3", "batch.sum_leaves: 3: expected a divisor of the 8 microbatches"},
      {"batch.sum_leaves=1", "layout.data: 2: expected at most batch.sum_leaves (1)"},
      {"batch.sum_leaves=few", "batch.sum_leaves: few: expected auto or a whole number"},
      {"batch.sum_leaves=0", "batch.sum_leaves: 0: expected auto or a whole number"},
      {"layout.tensor=3", "layout.tensor: 3: expected a divisor of model.num_attention_heads (8)"},
      {"layout.pipeline=5", "layout.pipeline: 5: expected at most model.num_hidden_layers (4)"},
      {"data.sequence_length=4096",
       "data.sequence_length: 4096: expected at most model.max_position_embeddings (2048)"},
      {"run.dir=file://demo", "run.dir: file://demo: expected a path or file:///absolute/path"},
      {"lr_schedule.gamma=0.5",
       "lr_schedule.gamma: set: expected this key only with lr_schedule.name step, not cosine"},
      {"lr_schedule.name=cosin", "lr_schedule.name: cosin: expected one of constant"},
      {"optimizer.betas=[0.9]", "optimizer.betas: 1 numbers: expected a list of two numbers"},
      {"optimizer.betas=[0.9, 1]", "optimizer.betas: 1: expected numbers below 1"},
      {"optimizer.lr=0", "optimizer.lr: 0: expected a number above 0"},
      {"optimizer.lr=fast", "--set optimizer.lr=fast: optimizer.lr: fast: expected a number"},
      {"optimizer.lr=nan", "optimizer.lr: nan: expected a number"},
      {"run.seed=-1", "run.seed: -1: expected a whole number of at least 0"},
      {"layout.data=1000000000000", "layout.data: 1000000000000: expected a layout of at most"},
      {"layout.pipeline_schedule=missing.csv",
       "layout.pipeline_schedule: missing.csv: expected a file that exists"},
      {"layout.pipeline_schedule=2f2b",
       "layout.pipeline_schedule: 2f2b: expected one of gpipe, 1f1b; did you mean 1f1b?"},
      {"optimizer=adamw", "optimizer: adamw: expected a section of keys"},
      {"oops", "--set oops: expected section.key=value"},
      {"=3", "--set =3: expected section.key=value"},
      {"a.b=3", "--set a.b=3: a: a section: expected a known key"},
      {"model.preset=gpt2-124m", "model.preset: gpt2-124m: expected a preset of family llama"},
      {"optimizer.lr=[1", "--set optimizer.lr=[1"},
  };
  for (const auto& [override_text, message] : cases) {
    const Status status = LoadError(kRun, {override_text});
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << override_text;
    EXPECT_THAT(status.message(), HasSubstr(message));
  }
  EXPECT_THAT(LoadError("model: {from: a, preset: llama-5m}").message(),
              HasSubstr("run.yaml:1: model.preset: llama-5m: expected either model.from or"));
}

TEST(ConfigLoaderTest, NamesThatComeLaterAreNotBuiltYet) {
  for (const char* text :
       {"layout.zero=2", "layout.zero=3", "layout.context=2", "layout.expert=2", "layout=auto",
        "precision.compute=float16", "precision.compute=float8", "model.family=qwen3",
        "objective=masked", "optimizer.name=muon", "layout.pipeline_schedule=zbv",
        "model.hidden_act=gelu", "model.sliding_window=1024"}) {
    const Status status = LoadError(kRun, {text});
    EXPECT_EQ(status.code(), StatusCode::kNotBuilt) << text << ": " << status.message();
    EXPECT_EQ(ExitCode(status), 2);
    EXPECT_THAT(status.message(),
                testing::AnyOf(HasSubstr("not built yet"), HasSubstr("not in this build")));
  }
}

// Such a run is one that ends early, or whose steps were lowered.
TEST(ConfigLoaderTest, WarmUpAndDecayMayLieBeyondTheLastStep) {
  for (const std::string& text : {std::string("lr_schedule={name: wsd, decay_start: 300}"),
                                  std::string("lr_schedule.warmup_steps=201"),
                                  std::string("lr_schedule={name: wsd, warmup_steps: 500}")}) {
    EXPECT_TRUE(LoadError(kRun, {text}).ok()) << LoadError(kRun, {text}).message();
  }
}

TEST(ConfigLoaderTest, EveryScheduleNameIsAccepted) {
  for (const std::string& name : SplitNames(FindConfigKey("lr_schedule.name")->choices)) {
    proto::Config config = Load(kRun, {"lr_schedule.name=" + name});
    ASSERT_TRUE(FillDefaults(&config).ok());
    EXPECT_TRUE(ValidateConfig(config).ok()) << ValidateConfig(config).message();
  }
}

TEST(ConfigLoaderTest, FilesThatAreNoRunAreRefused) {
  const auto folder = std::filesystem::temp_directory_path() /
                      ("trireme_config_test_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const auto error = [](const std::string& path) { return LoadConfig(path, {}).status(); };
  EXPECT_THAT(error((folder / "none.yaml").string()).message(), HasSubstr("no such file"));
  EXPECT_THAT(error(folder.string()).message(), HasSubstr("expected a YAML file"));
  const std::string path = (folder / "odd.yaml").string();
  for (const std::string& text :
       {std::string("- a\n- b\n"), std::string("just text"), std::string("\xff\xfe\x00", 3),
        std::string(100000, '['), std::string("a: &a [*a]"), std::string("? [1]\n: 2\n"),
        std::string(2 << 20, ' ')}) {
    std::ofstream(path, std::ios::binary) << text;
    const Status status = error(path);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text.substr(0, 20);
    EXPECT_THAT(status.message(), HasSubstr(path));
    EXPECT_EQ(status.message().find('\n'), std::string::npos);
  }
  std::filesystem::remove_all(folder);
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
