// Files of a run's folder that something has damaged: a clear line, or they are passed over.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;

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
