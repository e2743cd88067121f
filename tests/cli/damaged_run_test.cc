// Files of a run's folder that something has damaged: a clear line, or they are passed over.
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;
using testing::Not;

class DamagedRunTest : public SmallRunTest {
 protected:
  std::string Replaced(std::string text, const std::string& from, const std::string& to) {
    const size_t at = text.rfind(from);
    EXPECT_NE(at, std::string::npos) << from;
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
  }
};

TEST_F(DamagedRunTest, StatusShowsWhatIsWhole) {
  Train();
  place_.Write("run/events.jsonl", place_.Read("run/events.jsonl") + "{\"kind\":3}\n");
  place_.Write("run/metrics.jsonl", place_.Read("run/metrics.jsonl") + "{\"loss\":\"a\"}\n");
  for (const char* json : {"", " --json"}) {
    const Outcome outcome = place_.Run(std::string("status run") + json);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr("checkpoint_saved"));
  }
}

TEST_F(DamagedRunTest, TokensGoOnAcrossDamagedMetrics) {
  Train();
  const std::string metrics = place_.Read("run/metrics.jsonl");
  place_.Write("run/metrics.jsonl", Replaced(metrics, "\"tokens\":512", "\"tokens\":\"a\""));
  const Outcome outcome = place_.Run("train run.yaml --set lr_schedule.steps=5");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  std::istringstream lines(place_.Read("run/metrics.jsonl"));
  nlohmann::json last;
  for (std::string line; std::getline(lines, line);) last = nlohmann::json::parse(line);
  EXPECT_EQ(last["step"], 5);
  EXPECT_EQ(last["tokens"], 5 * 4 * 32) << "five steps of four sequences of 32";
}

TEST_F(DamagedRunTest, AJournalIsRefusedWithItsLine) {
  Train();
  const std::string journal = place_.Read("run/journal/journal.log");
  place_.Write("run/journal/journal.log", "x" + journal);
  const std::string line = "run/journal/journal.log: line 1 is damaged";
  ExpectRefused(place_.Run("status run"), 3, line);
  ExpectRefused(place_.Run("train run.yaml --set lr_schedule.steps=5"), 3, line);
}

// By the journal no checkpoint was ever finished, so there is nothing that could be missing.
TEST_F(DamagedRunTest, ARunThatEndedInItsFirstCheckpointBeginsAgain) {
  MakeTokens();
  const Outcome killed =
      place_.Run("train run.yaml", "TRIREME_FAULT=0:2:manifest.before_commit:kill ");
  EXPECT_NE(killed.exit_code, 0);
  ASSERT_TRUE(place_.Exists("run/checkpoints/step_00000002"));
  const Outcome again = place_.Run("train run.yaml");
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out + again.err, Not(HasSubstr("set aside")));
  EXPECT_TRUE(place_.Exists("run/checkpoints/step_00000004/manifest.json"));
  // Manifests that were there and are gone are told.
  for (const char* step : {"step_00000002", "step_00000004"}) {
    std::filesystem::remove(place_.Path(std::string("run/checkpoints/") + step + "/manifest.json"));
  }
  ExpectRefused(place_.Run("train run.yaml"), 4, "none of 2 checkpoints verifies");
}

TEST_F(DamagedRunTest, WeightsThatAreNotFiniteAreNotSaved) {
  MakeTokens();
  const Outcome outcome = place_.Run(
      "train run.yaml --set optimizer.lr=1e38 --set checkpoint.every_steps=1 --set "
      "lr_schedule.name=constant --set lr_schedule.warmup_steps=0");
  EXPECT_EQ(outcome.exit_code, 3) << outcome.err;
  EXPECT_FALSE(place_.Exists("run/checkpoints/step_00000001/manifest.json"));
  EXPECT_THAT(place_.Read("run/events.jsonl"), HasSubstr("has values that are not finite"));
  // The same without a later step whose loss would tell.
  const Outcome last = place_.Run(
      "train run.yaml --set run.dir=last --set optimizer.lr=1e39 --set lr_schedule.steps=1");
  EXPECT_EQ(last.exit_code, 3) << last.err;
  EXPECT_THAT(last.err, HasSubstr("trireme train: the last checkpoint, of step 1, could not be "
                                  "written: rank 1: model.embed_tokens.weight has values that are "
                                  "not finite"));
}

// Weights that are finite, and too large for the arithmetic.
TEST_F(DamagedRunTest, LogitsThatAreNotFiniteAreNotPrintedAsText) {
  Train();
  ASSERT_EQ(place_.Run("export --model run --format hf --out large").exit_code, 0);
  std::string bytes = place_.Read("large/model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), sizeof(header));
  const auto tensors = nlohmann::json::parse(bytes.substr(8, header));
  for (const auto& [name, value] :
       {std::pair{"model.norm.weight", 1e6f}, std::pair{"lm_head.weight", 3e38f}}) {
    const auto& offsets = tensors[name]["data_offsets"];
    for (size_t at = offsets[0]; at < offsets[1].get<size_t>(); at += sizeof(value)) {
      std::memcpy(&bytes[8 + header + at], &value, sizeof(value));
    }
  }
  place_.Write("large/model.safetensors", bytes);
  const std::string message = "the model's logits are not finite at token 2: id 0 has ";
  for (const char* how : {"--temperature 0", "--top-k 5", "--beams 2", "--json"}) {
    const Outcome outcome =
        place_.Run(std::string("generate --model large --prompt-ids 3,4 --max-tokens 4 ") + how);
    ExpectRefused(outcome, 3, message);
    EXPECT_EQ(outcome.out, "");
  }
  const Outcome scored = place_.RunWithInput(
      "score --model large", "{\"context_ids\": [3, 4], \"continuation_ids\": [5]}\n");
  ExpectRefused(scored, 3, "line 1: " + message);
  ExpectRefused(place_.Run("eval --model large --task perplexity=corpus_validation"), 3,
                "large: the loss on corpus_validation is not finite");
}

TEST_F(DamagedRunTest, ChunksOfAnUnfinishedCheckpointGoWhenTheRunGoesOn) {
  Train();
  std::filesystem::create_directory(place_.Path("run/checkpoints/step_00000001"));
  place_.Write("run/checkpoints/step_00000001/rank_00000_0.safetensors", "half of it");
  const Outcome outcome = place_.Run("train run.yaml --set lr_schedule.steps=5");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_FALSE(place_.Exists("run/checkpoints/step_00000001"));
  EXPECT_TRUE(place_.Exists("run/checkpoints/step_00000004/manifest.json"));
}

}  // namespace
}  // namespace trireme
