// trireme plan, as users run it.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace trireme {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kRun[] = R"(run: {dir: run}
model: {family: llama, vocab_size: 512, hidden_size: 64, intermediate_size: 96,
        num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2,
        max_position_embeddings: 64, tie_word_embeddings: true}
data: {train: [{path: corpus_train}], sequence_length: 32}
batch: {sequences: 16, microbatch_sequences: 1}
layout: {data: 2, tensor: 2, zero: 1}
threads: 1
)";

class PlanTest : public testing::Test {
 protected:
  void SetUp() override { place_.Write("run.yaml", kRun); }
  json Plan(const std::string& options) {
    const Outcome outcome = place_.Run("plan run.yaml --json --tflops 0.05 " + options);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return json::parse(outcome.out);
  }
  Workplace place_;
};

TEST_F(PlanTest, SaysWhatTheLayoutCostsAndNeedsNoData) {
  const json plan = Plan("");
  EXPECT_EQ(plan["workers"], 4);
  EXPECT_EQ(plan["sum_leaves"], 8);
  // The tied table once, four layers of projections and two norms, the last norm.
  EXPECT_EQ(plan["parameters"],
            512 * 64 + 4 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96 + 2 * 64) + 64);
  ASSERT_EQ(plan["stages"].size(), 1u);
  const json& stage = plan["stages"][0];
  EXPECT_EQ(stage["updated_parameters"].get<int>() * 2, stage["parameters"].get<int>());
  int64_t sum = 0;
  for (const auto& [what, bytes] : stage["memory"].items()) sum += bytes.get<int64_t>();
  EXPECT_EQ(sum, plan["memory_bytes_max"]);
  EXPECT_GT(plan["wire_bytes"]["tensor"], 0);
  EXPECT_GT(plan["step_seconds"], 0.0);
  EXPECT_TRUE(plan["fits"]);
}

TEST_F(PlanTest, MoreWorkersAreLaidOutBestFirst) {
  const json plan = Plan("--workers 8");
  EXPECT_EQ(plan["workers"], 8);
  EXPECT_GT(plan["other_layouts"].size(), 3u);
  for (const json& other : plan["other_layouts"]) {
    if (!other["fits"]) continue;
    EXPECT_LE(plan["step_seconds"], other["step_seconds"]);
  }
  const Outcome text = place_.Run("plan run.yaml --workers 8");
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("other layouts of 8 workers"));
}

TEST_F(PlanTest, ImpossibleLayoutsAreOneLine) {
  const auto refused = [&](const std::string& options, const std::string& message) {
    const Outcome outcome = place_.Run("plan run.yaml " + options);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(Lines(outcome.err), 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(message));
  };
  refused("--workers 59", "--workers 59: no layout of the run has so many workers");
  refused("--set layout.tensor=3", "layout.tensor: 3: expected a divisor");
  refused("--set layout.pipeline_schedule=zigzag", "layout.pipeline_schedule: zigzag");
  refused("--memory-gib 0.001", "a worker needs");
}

TEST_F(PlanTest, AScheduleOfTheUsersOwnIsReadFromCsv) {
  place_.Write("good.csv", "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n");
  place_.Write("stuck.csv", "0F0,0B0,0F1,0B1\n1F1,1F0,1B0,1B1\n");
  const std::string layout =
      "--set layout.data=1 --set layout.tensor=1 --set layout.pipeline=2 --set batch.sequences=2 "
      "--set layout.pipeline_schedule=";
  EXPECT_EQ(Plan(layout + "good.csv")["stages"].size(), 2u);
  const Outcome outcome = place_.Run("plan run.yaml " + layout + "stuck.csv");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("stuck.csv: row 1, column 2: 0B0: deadlock"));
}

}  // namespace
}  // namespace trireme
