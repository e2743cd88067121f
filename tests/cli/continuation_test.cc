// What goes on from where, what may change in between, and whose checkpoints are whose.
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;
using testing::Not;
using Json = nlohmann::json;

class ContinuationTest : public SmallRunTest {
 protected:
  Outcome RunTrain(const std::string& options) { return place_.Run("train run.yaml " + options); }
  void ExpectDone(const std::string& options) {
    const Outcome outcome = RunTrain(options);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  Json ConfigOf(const std::string& run) {
    return Json::parse(place_.Run("config " + run + "/config.yaml --json").out);
  }
  Json HashOf(const std::string& store) {
    const Outcome outcome = place_.Run("checkpoint hash " + store + " --json");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return Json::parse(outcome.out);
  }
  Json Start(const std::string& run) {
    std::istringstream lines(place_.Read(run + "/events.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      if (Json event = Json::parse(line); event["kind"] == "start") return event;
    }
    return nullptr;
  }
  std::vector<double> Rates(const std::string& run) {
    std::vector<double> rates;
    std::istringstream lines(place_.Read(run + "/metrics.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      if (Json step = Json::parse(line); step.contains("lr")) rates.push_back(step["lr"]);
    }
    return rates;
  }
};

TEST_F(ContinuationTest, WhatFollowsFromTheStepsStaysWhenTheyChange) {
  MakeTokens();
  ExpectDone("--set lr_schedule.steps=20 --set checkpoint.every_steps=10");
  EXPECT_EQ(ConfigOf("run")["lr_schedule"]["warmup_steps"], 2);
  ExpectDone("--set lr_schedule.steps=30");
  EXPECT_EQ(ConfigOf("run")["lr_schedule"]["warmup_steps"], 2);
  EXPECT_EQ(ConfigOf("run")["lr_schedule"]["steps"], 30);
  ExpectRefused(RunTrain("--set lr_schedule.steps=40 --set lr_schedule.warmup_steps=4"), 2,
                "--set lr_schedule.warmup_steps=4: lr_schedule.warmup_steps: 4, but the run's "
                "checkpoint has 2");
  for (const auto& [name, key, value] : {std::tuple{"wsd", "decay_start", 3},
                                         {"step", "step_size", 1},
                                         {"cosine_restarts", "restart_period", 1}}) {
    const std::string dir = std::string("--set run.dir=") + name + " --set lr_schedule.name=";
    ExpectDone(dir + name);
    EXPECT_EQ(ConfigOf(name)["lr_schedule"][key], value);
    ExpectDone(dir + name + " --set lr_schedule.steps=12");
    EXPECT_EQ(ConfigOf(name)["lr_schedule"][key], value) << name;
  }
}

TEST_F(ContinuationTest, WhatFollowsFromTheLayoutStaysWhenItChanges) {
  MakeTokens();
  place_.Write("run.yaml", ModelAndData() + R"(
run: {dir: run}
batch: {sequences: 8}
lr_schedule: {steps: 4}
validation: {every_steps: 0}
threads: 1
)");
  ExpectDone("");
  EXPECT_EQ(ConfigOf("run")["batch"]["microbatch_sequences"], 4);
  const std::string wider = "--set lr_schedule.steps=5 --set layout.data=";
  ExpectDone(wider + "2");
  EXPECT_EQ(ConfigOf("run")["batch"]["microbatch_sequences"], 4);
  ExpectRefused(RunTrain("--set lr_schedule.steps=6 --set layout.data=4"), 2,
                "--set layout.data=4: layout.data: 4: expected at most the 2 microbatches");
}

TEST_F(ContinuationTest, AFinishedRunWhoseStepsWereLoweredSaysSo) {
  Train();
  EXPECT_EQ(RunTrain("").out, "run: finished, step 4 of 4 is done\n");
  const Outcome outcome = RunTrain("--set lr_schedule.steps=2");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "run: finished: step 4 is done, and lr_schedule.steps is 2\n");
}

TEST_F(ContinuationTest, AWarmUpMayBeLongerThanTheRun) {
  MakeTokens();
  for (const char* name : {"cosine", "linear", "wsd", "polynomial"}) {
    const std::string dir = std::string("--set run.dir=") + name + " --set lr_schedule.name=";
    ExpectDone(dir + name + " --set lr_schedule.warmup_steps=8 --set optimizer.lr=0.008");
    EXPECT_THAT(
        Rates(name),
        testing::ElementsAre(testing::DoubleNear(0.001, 1e-12), testing::DoubleNear(0.002, 1e-12),
                             testing::DoubleNear(0.003, 1e-12), testing::DoubleNear(0.004, 1e-12)))
        << name;
  }
}

// A run's own config.yaml names its store, wherever that is; with another run.dir it is another
// run.
TEST_F(ContinuationTest, ConfigYamlRepeatsTheRunElsewhere) {
  MakeTokens();
  ExpectDone("--set checkpoint.store=stores/one");
  const std::string hash = place_.Run("checkpoint hash stores/one --json").out;
  Outcome outcome = place_.Run("train run/config.yaml --set run.dir=again");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(place_.Run("checkpoint hash again --json").out, hash);
  EXPECT_EQ(Rates("again"), Rates("run"));
  EXPECT_EQ(place_.Run("checkpoint hash stores/one --json").out, hash);
  EXPECT_EQ(ConfigOf("again")["checkpoint"]["store"], "again/checkpoints");
  outcome = place_.Run("train run/config.yaml");
  EXPECT_THAT(outcome.out, HasSubstr("run: finished"));
}

TEST_F(ContinuationTest, ConfigSaysWhatTheRunWillWrite) {
  MakeTokens();
  const std::string gpt2 =
      " --set model= --set model.preset=gpt2-124m --set model.vocab_size=300 --set "
      "model.hidden_size=32 --set model.num_hidden_layers=1 --set model.num_attention_heads=2 "
      "--set model.max_position_embeddings=64";
  for (const std::string& model : {std::string(), gpt2}) {
    const Json said = Json::parse(place_.Run("config run.yaml --json --set run.dir=a" + model).out);
    ExpectDone("--fresh --set run.dir=a" + model);
    EXPECT_EQ(ConfigOf("a"), said);
    EXPECT_EQ(said["model"]["eos_token_id"], 0) << "the tokenizer's";
    std::filesystem::remove_all(place_.Path("a"));
  }
}

TEST_F(ContinuationTest, TheStoreOfAnotherRunIsNeitherContinuedNorCleared) {
  MakeTokens();
  ExpectDone("--set checkpoint.store=stores/one");
  const std::string other = "--set run.dir=other --set lr_schedule.steps=6 --set checkpoint.store=";
  ExpectRefused(RunTrain(other + "stores/one"), 2,
                "--set checkpoint.store=stores/one: checkpoint.store: stores/one holds the "
                "checkpoints of the run run, not of other: expected a store of its own");
  EXPECT_FALSE(place_.Exists("other"));
  ExpectDone("--set run.dir=third");
  ExpectRefused(RunTrain("--set run.dir=third --set lr_schedule.steps=6 --set "
                         "checkpoint.store=stores/one"),
                2, "stores/one holds the checkpoints of the run run, not of third");
  ExpectRefused(RunTrain("--set run.dir=other --fresh --set checkpoint.store=stores/one"), 2,
                "--fresh: checkpoint.store stores/one holds checkpoints: expected an empty store");
  EXPECT_FALSE(place_.Exists("other"));
  // A run that was moved is still the same, and so is what was copied into a run's folder.
  std::filesystem::rename(place_.Path("run"), place_.Path("moved"));
  ExpectDone("--set run.dir=moved --set lr_schedule.steps=6 --set checkpoint.store=stores/one");
  EXPECT_EQ(Rates("moved").size(), 6u);
  ASSERT_EQ(place_.Run("checkpoint copy stores/one@4 branch/checkpoints").exit_code, 0);
  ExpectDone("--set run.dir=branch --set lr_schedule.steps=6");
}

// checkpoint.store may change: the newest checkpoint is copied there, and stays where it was too.
TEST_F(ContinuationTest, AnotherStoreTakesTheCheckpointAlong) {
  Train();
  ExpectDone("--set run.dir=quiet");
  ExpectDone("--set run.dir=quiet --set lr_schedule.steps=6");
  Outcome outcome = RunTrain("--set lr_schedule.steps=6 --set checkpoint.store=stores/new");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("trireme train: checkpoint.store is now stores/new: step 4 "
                                     "was copied there from run/checkpoints\n"));
  EXPECT_EQ(HashOf("stores/new"), HashOf("quiet"));
  EXPECT_EQ(HashOf("run"), HashOf("quiet")) << "a run's folder names its newest store";
  EXPECT_EQ(Rates("run"), Rates("quiet"));
  EXPECT_EQ(HashOf("run/checkpoints"), HashOf("quiet@4"));
  EXPECT_TRUE(place_.Exists("run/checkpoints/step_00000002/manifest.json"));
  EXPECT_FALSE(place_.Exists("stores/new/step_00000002"));
  EXPECT_EQ(Json::parse(place_.Run("status run --json").out)["checkpoints"], Json({4, 6}));

  ExpectDone("--set run.dir=quiet --set lr_schedule.steps=7");
  outcome = RunTrain("--set lr_schedule.steps=7");  // back to where older ones are
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("checkpoint.store is now run/checkpoints: step 6 was copied "
                                     "there from stores/new\n"));
  EXPECT_EQ(HashOf("run/checkpoints"), HashOf("quiet"));
  EXPECT_EQ(Rates("run").size(), 7u);
}

TEST_F(ContinuationTest, NothingIsCopiedForARunThatIsRefusedOrFinished) {
  Train();
  const std::string other = "--set checkpoint.store=stores/new ";
  Outcome outcome = RunTrain(other);
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, "run: finished, step 4 of 4 is done\n");
  EXPECT_EQ(outcome.err, "");
  ExpectRefused(RunTrain(other + "--set lr_schedule.steps=6 --set optimizer.lr=0.5"), 2,
                "optimizer.lr: 0.5, but the run's checkpoint has 0.001");
  ExpectRefused(RunTrain(other + "--set lr_schedule.steps=6 --set data.train=corpus_validation"), 2,
                "holds other tokens than those that the run's checkpoint was trained on");
  EXPECT_FALSE(place_.Exists("stores"));
  EXPECT_EQ(ConfigOf("run")["checkpoint"]["store"], "run/checkpoints");
}

// What a crash in the middle of the copy leaves, and one after it.
TEST_F(ContinuationTest, ACopyThatWasCutShortIsMadeAgain) {
  Train();
  const std::string chunk = ChunkOf("run/checkpoints/step_00000004");
  place_.Write("torn/step_00000004/" + std::filesystem::path(chunk).filename().string(), "half");
  Outcome outcome = RunTrain("--set lr_schedule.steps=5 --set checkpoint.store=torn");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("torn: step 4 was copied there from run/checkpoints\n"));
  EXPECT_EQ(place_.Run("checkpoint verify torn@4").exit_code, 0);

  ASSERT_EQ(place_.Run("checkpoint copy torn whole").exit_code, 0);
  outcome = RunTrain("--set lr_schedule.steps=6 --set checkpoint.store=whole");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, Not(HasSubstr("copied")));
  EXPECT_TRUE(place_.Exists("whole/step_00000006/manifest.json"));

  for (const char* step : {"whole@5", "whole@6"}) {
    ASSERT_EQ(place_.Run(std::string("checkpoint copy ") + step + " damaged").exit_code, 0);
  }
  Damage(ChunkOf("damaged/step_00000006"));
  outcome = RunTrain("--set lr_schedule.steps=7 --set checkpoint.store=damaged");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("damaged: step 6 was copied there from whole\n"));
  EXPECT_EQ(place_.Run("checkpoint verify damaged@6").exit_code, 0);
}

TEST_F(ContinuationTest, AStoreBeforeWithoutACheckpointThatVerifiesStartsNothingAgain) {
  Train();
  const std::string metrics = place_.Read("run/metrics.jsonl");
  for (const char* step : {"2", "4"}) {
    Damage(ChunkOf(std::string("run/checkpoints/step_0000000") + step));
  }
  ExpectRefused(RunTrain("--set lr_schedule.steps=6 --set checkpoint.store=stores/new"), 4,
                "none of 2 checkpoints verifies");
  EXPECT_EQ(place_.Read("run/metrics.jsonl"), metrics);
}

// Data are what they hold, not how their path is spelled or where a copy of them lies.
TEST_F(ContinuationTest, TheSameDataUnderAnotherSpellingAreTheSame) {
  Train();
  const std::filesystem::path copy = place_.Path("copy");
  std::filesystem::create_directory(copy);
  for (const char* name :
       {"corpus_train.bin", "corpus_train.idx", "corpus_validation.bin", "corpus_validation.idx"}) {
    std::filesystem::copy_file(place_.Path(name), copy / name);
  }
  const std::string here = place_.Path("corpus_train").string();
  int step = 5;
  for (const std::string& same :
       std::vector<std::string>{"./corpus_train", here, "copy/../corpus_train", "corpus_train.bin",
                                "file://" + here, "copy/corpus_train"}) {
    ExpectDone("--set data.train=" + same);  // finished, and the same
    ExpectDone("--set data.train=" + same + " --set lr_schedule.steps=" + std::to_string(step++));
  }
  const std::string more = "--set lr_schedule.steps=20 --set ";
  ExpectDone("--set data.validation=" + place_.Path("corpus_validation.idx").string());
  ExpectDone("--set data.validation=copy/corpus_validation");
  ExpectDone("--set data.tokenizer=./tokenizer.json");
  const std::string other = "corpus_validation holds other tokens than those that the run's";
  ExpectRefused(RunTrain("--set data.train=corpus_validation"), 2, other);
  ExpectRefused(RunTrain(more + "data.train=corpus_validation"), 2, other);
  ExpectRefused(RunTrain(more + "data.train.weight=2"), 2,
                "data.train: [{path: corpus_train, weight: 2}], but the run's checkpoint has "
                "[{path: corpus_train, weight: 1}]");
  ExpectRefused(RunTrain(more + "data.validation=copy/corpus_train"), 2,
                "data.validation: [{path: copy/corpus_train, weight: 1}], but the run's "
                "checkpoint has [{path: corpus_validation, weight: 1}]");
}

TEST_F(ContinuationTest, ARunsFolderMayBeAUrl) {
  MakeTokens();
  const std::string folder = place_.Path("url").string();
  ExpectDone("--set run.dir=file://" + folder);
  EXPECT_TRUE(place_.Exists("url/checkpoints/step_00000004/manifest.json"));
  EXPECT_TRUE(place_.Exists("url/metrics.jsonl"));
  EXPECT_FALSE(place_.Exists("file:"));
  ExpectRefused(RunTrain("--set run.dir=s3://bucket/run"), 2,
                "--set run.dir=s3://bucket/run: run.dir: s3://bucket/run: expected a path");
  EXPECT_FALSE(place_.Exists("s3:"));
}

TEST_F(ContinuationTest, TheStartListsEveryMember) {
  Train();
  const Json members = Start("run")["members"];
  ASSERT_EQ(members.size(), 2u);
  EXPECT_EQ(members[0]["rank"], 0);
  EXPECT_EQ(members[0]["role"], "coordinator");
  EXPECT_EQ(members[0]["pid"], members[1]["pid"]) << "one process";
  EXPECT_EQ(members[0]["host"], members[1]["host"]);
  EXPECT_TRUE(members[0]["place"].is_null());
  EXPECT_EQ(members[1]["role"], "worker");
  EXPECT_THAT(place_.Run("status run").out, HasSubstr("rank 0  coordinator  "));
}

}  // namespace
}  // namespace trireme
