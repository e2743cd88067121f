// What the loader refuses or warns of, and how it says so.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/cli_config/runs.h"

namespace trireme {
namespace {

using testing::HasSubstr;

TEST(ConfigRefusalsTest, MessagesCallAKeyAsItWasWritten) {
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
      {"n_head: 4", "n_head: 4\n  n_ctx: 64\n  n_positions: 128",
       "run.yaml:6: model.n_positions: 128: expected each key once, or the 64 of n_ctx"},
      {"n_head: 4", "n_head: 4\n  eos_token_id: []",
       "run.yaml:5: model.eos_token_id: a list: expected a whole number"},
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

TEST(ConfigRefusalsTest, DropoutIsWarnedOf) {
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

TEST(ConfigRefusalsTest, PlacesAreThoseOfTheKeyOrOfWhatIsAroundIt) {
  ConfigPlaces places;
  ASSERT_TRUE(ParseConfig(kRun, "run.yaml", {"optimizer.lr=0.1"}, &places).ok());
  EXPECT_EQ(places.PlaceOf("model.vocab_size"), "run.yaml:4");
  EXPECT_EQ(places.PlaceOf("model.head_dim"), "run.yaml:2");
  EXPECT_EQ(places.PlaceOf("data.train[0].weight"), "run.yaml:11");
  EXPECT_EQ(places.PlaceOf("optimizer.lr"), "--set optimizer.lr=0.1");
  EXPECT_EQ(places.PlaceOf("checkpoint.store"), "run.yaml");
}

TEST(ConfigRefusalsTest, ASecondDocumentIsRefused) {
  EXPECT_EQ(LoadError(std::string(kRun) + "---\noptimizer: {lr: 3}\n").message(),
            "run.yaml:17: a second YAML document: expected one");
  EXPECT_TRUE(ParseConfig("---\n" + std::string(kRun), "run.yaml", {}).ok());
}

// yaml-cpp stands still at such a comma, and its reader of all documents fills the memory.
TEST(ConfigRefusalsTest, ATextThatStopsBeingYamlAtACommaIsRefused) {
  EXPECT_EQ(LoadError(", b]\n" + std::string(kRun)).message(),
            "run.yaml:1: not valid YAML: a key or a value was expected");
  EXPECT_EQ(LoadError("- a\n, b\n").message(),
            "run.yaml:2: not valid YAML: a key or a value was expected");
}

TEST(ConfigRefusalsTest, AKeyIsAName) {
  EXPECT_EQ(LoadError(": 3\n").message(), "run.yaml:1: <key>: nothing: expected a name");
  EXPECT_EQ(LoadError("model: {[a]: 3}\n").message(),
            "run.yaml:1: model.<key>: a list: expected a name");
}

TEST(ConfigRefusalsTest, ErrorsNameFileLineKeyValueAndNearestName) {
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
      {"vocab_size: 4096", "vocab_size: \"4096\"",
       "run.yaml:4: model.vocab_size: \"4096\": expected a whole number, not a text in quotes"},
      {"vocab_size: 4096", "attention_dropout: '0.1'",
       "run.yaml:4: model.attention_dropout: 0.1: expected a number"},
      {"lr: 1.0e-3", "lr: !!str 1.0e-3",
       "run.yaml:14: optimizer.lr: \"1.0e-3\": expected a number, not a text in quotes"},
      {"lr: 1.0e-3", "betas: [0.9, '0.95']",
       "run.yaml:14: optimizer.betas: \"0.95\": expected numbers, not a text in quotes"},
      {"sequence_length: 256", "shuffle: 'false'",
       "run.yaml:12: data.shuffle: \"false\": expected true or false, not a text in quotes"},
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

TEST(ConfigRefusalsTest, TextsNeedNoQuotesAndWhatIsSetIsText) {
  std::string yaml = kRun;
  yaml.replace(yaml.find("dir: runs/demo"), 14, "dir: 2024");
  yaml.replace(yaml.find("microbatch_sequences: 4"), 23, "sum_leaves: \"4\"");
  EXPECT_EQ(Load(yaml).run().dir(), "2024");
  EXPECT_EQ(Load(yaml).batch().sum_leaves(), "4");
  EXPECT_EQ(Load(yaml, {"lr_schedule.steps=\"300\""}).lr_schedule().steps(), 300);
  EXPECT_EQ(Load(yaml, {"optimizer.betas=['0.9', \"0.95\"]"}).optimizer().betas(1), 0.95);
}

TEST(ConfigRefusalsTest, ContradictionsAreNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {"batch.sequences=30",
       "--set batch.sequences=30: batch.sequences: 30: expected a multiple of "
       "batch.microbatch_sequences (4)"},
      {"layout.data=16", "layout.data: 16: expected at most the 8 microbatches of a step"},
      {"batch.sum_leaves=3", "batch.sum_leaves: 3: expected a divisor of the 8 microbatches"},
      {"batch.sum_leaves=1",
       "layout.data: 2: expected at most batch.sum_leaves (1), which divides the 8 microbatches of "
       "a step (batch.sequences 32 / microbatch_sequences 4); batch.sum_leaves=2 allows it in a "
       "new run"},
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

TEST(ConfigRefusalsTest, NamesThatComeLaterAreNotBuiltYet) {
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
TEST(ConfigRefusalsTest, WarmUpAndDecayMayLieBeyondTheLastStep) {
  for (const std::string& text : {std::string("lr_schedule={name: wsd, decay_start: 300}"),
                                  std::string("lr_schedule.warmup_steps=201"),
                                  std::string("lr_schedule={name: wsd, warmup_steps: 500}")}) {
    EXPECT_TRUE(LoadError(kRun, {text}).ok()) << LoadError(kRun, {text}).message();
  }
}

TEST(ConfigRefusalsTest, FilesThatAreNoRunAreRefused) {
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

}  // namespace
}  // namespace trireme
