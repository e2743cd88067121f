// A run seen from any terminal once it is finished.
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

class StatusCommandTest : public SmallRunTest {
 protected:
  void SetUp() override {
    MakeTokens();
    const Outcome outcome = place_.Run("train run.yaml --set validation.every_steps=2");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  std::string Status(const std::string& options) {
    const Outcome outcome = place_.Run("status run " + options);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  }
  std::vector<Json> JsonLines(const std::string& name) {
    std::istringstream in(place_.Read(name));
    std::vector<Json> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
    return lines;
  }
};

TEST_F(StatusCommandTest, AFinishedRunIsDone) {
  const std::string out = Status("--json");
  EXPECT_EQ(Lines(out), 1);
  Json status = Json::parse(out);
  EXPECT_EQ(status["run_dir"], "run");
  EXPECT_EQ(status["state"], "done");
  EXPECT_EQ(status["step"], 4);
  EXPECT_EQ(status["generation"], 1);
  EXPECT_EQ(status["checkpoints"], Json({2, 4}));
  EXPECT_EQ(status["verdict"]["exit_code"], 0);
  EXPECT_EQ(status["verdict"]["step"], 4);
  // The run's own last lines: step 4, and the validation after it.
  const std::vector<Json> metrics = JsonLines("run/metrics.jsonl");
  ASSERT_GE(metrics.size(), 2u);
  EXPECT_EQ(status["metrics"], metrics[metrics.size() - 2]);
  EXPECT_EQ(status["metrics"]["step"], 4);
  EXPECT_EQ(status["validation"], metrics.back());
  EXPECT_EQ(status["validation"]["step"], 4);
  ASSERT_EQ(status["members"].size(), 2u);
  EXPECT_EQ(status["members"][0]["role"], "coordinator");
  EXPECT_EQ(status["members"][1]["role"], "worker");
  EXPECT_EQ(status["members"][1]["place"]["data"], 0);
  const std::vector<Json> events = JsonLines("run/events.jsonl");
  EXPECT_EQ(status["events"], Json(events));
  EXPECT_EQ(events.back()["kind"], "stop");
}

TEST_F(StatusCommandTest, SoManyEventsAreShownAsAreAskedFor) {
  const std::vector<Json> events = JsonLines("run/events.jsonl");
  ASSERT_GT(events.size(), 2u);
  EXPECT_EQ(Json::parse(Status("--json --events 2"))["events"],
            Json({events[events.size() - 2], events.back()}));
  EXPECT_EQ(Json::parse(Status("--json --events 0"))["events"], Json::array());
  EXPECT_EQ(Json::parse(Status("--json --events 0"))["members"].size(), 2u);
}

TEST_F(StatusCommandTest, PeopleReadLines) {
  const std::string text = Status("");
  EXPECT_THAT(text, testing::StartsWith("run: done, step 4, generation 1\nverdict: exit code 0, "));
  EXPECT_THAT(text, HasSubstr("\nloss 5."));
  EXPECT_THAT(text, HasSubstr("\nvalidation after step 4: loss 5."));
  EXPECT_THAT(text, HasSubstr("\ncheckpoints: 2 4\n"));
  EXPECT_THAT(text, HasSubstr("  worker  "));
  EXPECT_THAT(text, HasSubstr("  checkpoint_saved  step 4  "));
  EXPECT_THAT(text, HasSubstr("  stop  step 4  "));
}

// It looks and leaves everything as it is; a run that goes on is seen with its new end.
TEST_F(StatusCommandTest, ARunThatWentOnIsDoneAtItsNewEnd) {
  const std::string hash = place_.Run("checkpoint hash run/checkpoints --json").out;
  Status("");
  EXPECT_EQ(place_.Run("checkpoint hash run/checkpoints --json").out, hash);
  const Outcome outcome = place_.Run("train run.yaml --set lr_schedule.steps=6");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  Json status = Json::parse(Status("--json"));
  EXPECT_EQ(status["state"], "done");
  EXPECT_EQ(status["step"], 6);
  EXPECT_EQ(status["metrics"]["step"], 6);
  EXPECT_EQ(status["generation"], 2);
}

TEST_F(StatusCommandTest, AFolderThatIsNoRunIsRefused) {
  ExpectRefused(place_.Run("status ."), 2, ".: not the folder of a run");
  ExpectRefused(place_.Run("status nowhere"), 2, "nowhere: not the folder of a run");
  ExpectRefused(place_.Run("status run --events -1"), 2, "--events");
}

}  // namespace
}  // namespace trireme
