#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"
#include "tests/storage/checkpoint_fixture.h"

namespace trireme {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class CheckpointCommandTest : public testing::Test {
 protected:
  CheckpointCommandTest() {
    store_ = NewLocalStore(place_.Path("run/checkpoints").string());
    CHECK(
        WriteCheckpoint(*store_, StateTensors::Small(), {.step = 50, .ranks = 2, .cuts = 3}).ok());
    CHECK(WriteCheckpoint(*store_, StateTensors::Small(), {.step = 100}).ok());
  }
  void Corrupt(const std::string& key) {
    std::string bytes = *ReadObject(*store_, key);
    bytes.back() ^= 1;
    CHECK(PutText(*store_, key, bytes).ok());
  }
  json RunJson(const std::string& arguments, int exit_code = 0) {
    const Outcome outcome = place_.Run("checkpoint " + arguments + " --json");
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    return json::parse(outcome.out, nullptr, false);
  }
  // The one line of an error.
  std::string Error(const std::string& arguments, int exit_code) {
    const Outcome outcome = place_.Run("checkpoint " + arguments);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    return outcome.err;
  }

  Workplace place_;
  std::unique_ptr<ObjectStore> store_;
};

TEST_F(CheckpointCommandTest, ListShowVerifyAndHashSpeakJson) {
  const json list = RunJson("list run");
  ASSERT_EQ(list["checkpoints"].size(), 2u);
  EXPECT_EQ(list["checkpoints"][0]["step"], 50);
  EXPECT_EQ(list["checkpoints"][1]["tensors"], 15);
  const json show = RunJson("show run@50");
  EXPECT_EQ(show["step"], 50);
  EXPECT_EQ(show["data_cursor"]["samples"], 1600);
  EXPECT_EQ(show["weights"].size(), 5u);
  EXPECT_EQ(show["state"].size(), 10u);
  const json verify = RunJson("verify run/checkpoints");
  EXPECT_EQ(verify["checkpoints"][1], json({{"step", 100}, {"verified", true}}));
  const json hash = RunJson("hash run@50");
  const CheckpointHash expected = HashOf(*store_, 50);
  EXPECT_EQ(hash, json({{"step", 50}, {"weights", expected.weights}, {"state", expected.state}}));
  EXPECT_EQ(RunJson("hash run")["step"], 100);
  EXPECT_EQ(RunJson("hash run")["weights"], expected.weights) << "another chunking";
}

TEST_F(CheckpointCommandTest, ACorruptChunkIsNamedAndTheOlderStepTaken) {
  Corrupt("step_00000100/rank_00000_0.safetensors");
  const json verify = RunJson("verify run", 4);
  EXPECT_EQ(verify["checkpoints"][0]["verified"], true);
  EXPECT_THAT(verify["checkpoints"][1]["error"].get<std::string>(),
              MatchesRegex("run/checkpoints/step_00000100/rank_00000_0.safetensors: tensor "
                           "optimizer.v.norm.weight at byte [0-9]+: checksum [0-9a-f]{16}, "
                           "expected [0-9a-f]{16}"));
  EXPECT_EQ(RunJson("hash run")["step"], 50);
  EXPECT_THAT(Error("hash run@100", 4), HasSubstr("rank_00000_0.safetensors: tensor "));
  ASSERT_TRUE(store_->Delete("step_00000050/manifest.json").ok());
  EXPECT_THAT(Error("hash run", 4), HasSubstr("none of 2 checkpoints verifies; the newest: "));
  EXPECT_THAT(Error("show run@50", 4), HasSubstr("step_00000050/manifest.json: does not exist"));
}

TEST_F(CheckpointCommandTest, CopyDiffAndDelete) {
  EXPECT_EQ(RunJson("copy run@50 elsewhere")["step"], 50);
  // A run's folder stands for its store; no store is called like a step.
  std::filesystem::create_directories(place_.Path("other/checkpoints"));
  EXPECT_EQ(RunJson("copy run@50 other")["target"], "other/checkpoints");
  EXPECT_TRUE(place_.Exists("other/checkpoints/step_00000050/manifest.json"));
  EXPECT_EQ(Error("copy run@50 new@3", 2),
            "trireme checkpoint: copy: new@3: expected a store, a copy keeps its step\n");
  EXPECT_FALSE(place_.Exists("new@3"));
  EXPECT_EQ(RunJson("hash elsewhere"), RunJson("hash run@50"));
  EXPECT_THAT(Error("copy run@50 elsewhere", 4), HasSubstr("manifest.json: exists already"));
  EXPECT_EQ(RunJson("diff run@50 elsewhere")["equal"], true);
  StateTensors changed = StateTensors::Small();
  changed.tensors["norm.weight"].values[3] += 2;
  changed.tensors["cube"].shape = changed.tensors["cube"].published = {4, 5, 6};
  changed.tensors.erase("optimizer.m.cube");
  ASSERT_TRUE(WriteCheckpoint(*store_, changed, {.step = 150}).ok());
  const json diff = RunJson("diff run@50 run@150");
  EXPECT_EQ(diff["equal"], false);
  ASSERT_EQ(diff["tensors"].size(), 3u);
  EXPECT_EQ(diff["tensors"][0],
            json({{"name", "cube"}, {"what", "shape [5, 4, 6] and [4, 5, 6]"}}));
  EXPECT_EQ(diff["tensors"][1]["different"], 1);
  EXPECT_NEAR(diff["tensors"][1]["max_abs"].get<double>(), 2, 1e-6);
  EXPECT_EQ(diff["tensors"][2]["what"], "only in the first");
  EXPECT_EQ(RunJson("delete run@50")["deleted"], 50);
  EXPECT_FALSE(place_.Exists("run/checkpoints/step_00000050"));
  EXPECT_THAT(Error("delete run@50", 4), HasSubstr("no checkpoint of step 50"));
}

TEST_F(CheckpointCommandTest, WhatCannotBeIsRefusedOnOneLine) {
  EXPECT_THAT(Error("frob run", 2), HasSubstr("'frob': expected list, show, verify, hash"));
  EXPECT_THAT(Error("reshard run", 2), HasSubstr("not built yet"));
  EXPECT_THAT(Error("average run", 2), HasSubstr("not built yet"));
  EXPECT_THAT(Error("delete run", 2), HasSubstr("expected STORE@STEP"));
  EXPECT_THAT(Error("copy run", 2), HasSubstr("expected STORE[@STEP] TARGET"));
  EXPECT_THAT(Error("list nowhere", 4), HasSubstr("nowhere: no such store"));
  EXPECT_THAT(Error("list s3://bucket/x", 2), HasSubstr("s3:// is not built yet"));
  EXPECT_THAT(Error("hash run@70", 4),
              HasSubstr("run@70: there is no checkpoint of step 70; there are 50, 100"));
}

}  // namespace
}  // namespace trireme
