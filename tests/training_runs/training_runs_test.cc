// Whole runs of the program: layouts, stops, resumes and lost workers end in the same bits.
#include <gmock/gmock.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;

constexpr char kRest[] = R"(
run: {dir: quiet, seed: 3}
batch: {sequences: 8, microbatch_sequences: 1}
lr_schedule: {warmup_steps: 3, steps: 12}
checkpoint: {every_steps: 4, keep: 5}
validation: {every_steps: 4, batches: 2}
threads: 1
)";

class TrainingRunsTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeSmallCorpus(place_);
    place_.Write("run.yaml", ModelAndData({.layers = 4}) + kRest);
  }

  Outcome Train(const std::string& arguments, const std::string& before = "") {
    return place_.Run("train run.yaml " + arguments, before);
  }
  static std::string Mpirun(int processes, const std::string& environment = "") {
    return "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
           "PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 " +
           environment +
           " timeout 100 " TRIREME_MPIEXEC " --map-by :OVERSUBSCRIBE --bind-to none -n " +
           std::to_string(processes);
  }
  std::string Hash(const std::string& run) {
    const Outcome outcome = place_.Run("checkpoint hash " + run + " --json");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.out;
  }
  std::vector<nlohmann::json> Lines(const std::string& file) {
    std::vector<nlohmann::json> lines;
    std::ifstream in(place_.Path(file));
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  nlohmann::json LastEvent(const std::string& run, const std::string& kind) {
    nlohmann::json last;
    for (const auto& event : Lines(run + "/events.jsonl")) {
      if (event["kind"] == kind) last = event;
    }
    return last;
  }
  // metrics.jsonl without what depends on time.
  std::string Losses(const std::string& run) {
    std::string losses;
    for (const auto& line : Lines(run + "/metrics.jsonl")) {
      losses += line["step"].dump();
      for (const char* key : {"loss", "grad_norm", "lr", "tokens", "validation_loss"}) {
        if (line.contains(key)) losses += " " + line[key].dump();
      }
      losses += "\n";
    }
    return losses;
  }

  Workplace place_;
};

TEST_F(TrainingRunsTest, ProcessesAndThreadsTrainToTheSameBits) {
  Outcome outcome = Train("");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  outcome =
      Train("--set run.dir=mpi --set layout.data=2 --set layout.pipeline=2 --set layout.zero=1",
            Mpirun(5));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("mpi"), Hash("quiet"));
  EXPECT_EQ(Losses("mpi"), Losses("quiet"));
  // The model ends its texts as its tokenizer does.
  EXPECT_THAT(place_.Read("mpi/config.yaml"), HasSubstr("eos_token_id: 0\n"));
  // A finished run says so.
  outcome = Train("");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.out, HasSubstr("finished, step 12 of 12"));
}

TEST_F(TrainingRunsTest, ALostWorkerEndsTheRunWhichThenGoesOnElsewhere) {
  ASSERT_EQ(Train("").exit_code, 0);
  Outcome outcome = Train("--set run.dir=lost --set layout.data=4",
                          Mpirun(5, "TRIREME_FAULT=3:7:pipeline.backward:kill"));
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, HasSubstr("trireme train: lost worker rank 3"));
  EXPECT_EQ(LastEvent("lost", "worker_lost")["worker"], 3);
  EXPECT_EQ(LastEvent("lost", "stop")["exit_code"], 5);
  // The others may not have reported step 6 yet.
  EXPECT_GE(LastEvent("lost", "stop")["step"], 5);
  EXPECT_LE(LastEvent("lost", "stop")["step"], 6);
  // Another layout, the same samples, the same bits as if nothing had happened.
  outcome = Train("--set run.dir=lost --set layout.pipeline=2 --set layout.data=1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("lost"), Hash("quiet"));
  EXPECT_EQ(Losses("lost"), Losses("quiet"));
}

TEST_F(TrainingRunsTest, AStopOnRequestLeavesACheckpointAndGoesOn) {
  ASSERT_EQ(Train("").exit_code, 0);
  // A run long enough to be stopped; the schedule's length is the same for both.
  place_.Write(
      "stop.sh",
      "\"$@\" & pid=$!\n"
      "while ! grep -q '\"step\":2,' stopped/metrics.jsonl 2>/dev/null; do sleep 0.01; done\n"
      "kill -USR1 $pid; wait $pid\n");
  const std::string slow = " --set checkpoint.every_steps=1000";
  Outcome outcome = Train("--set run.dir=stopped --set layout.data=2" + slow, "bash stop.sh");
  // It may have been quicker than the signal.
  if (outcome.exit_code == 75) {
    const auto stop = LastEvent("stopped", "stop");
    EXPECT_EQ(stop["exit_code"], 75);
    const int step = stop["step"];
    EXPECT_GE(step, 2);
    char folder[64];
    snprintf(folder, sizeof(folder), "stopped/checkpoints/step_%08d/manifest.json", step);
    EXPECT_TRUE(place_.Exists(folder)) << folder;
    outcome = Train("--set run.dir=stopped" + slow);
  }
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("stopped"), Hash("quiet"));
}

// Partial sums inside a product are regrouped: no equal bits from here on, and the events say so.
TEST_F(TrainingRunsTest, AnotherTensorDegreeEndsThePromiseOfEqualBits) {
  ASSERT_EQ(Train("--set run.dir=wider --set lr_schedule.steps=12").exit_code, 0);
  Outcome outcome = Train("--set run.dir=wider --set lr_schedule.steps=16 --set layout.data=2");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(LastEvent("wider", "promise_ended").is_null());
  outcome = Train("--set run.dir=wider --set lr_schedule.steps=20 --set layout.tensor=2");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(LastEvent("wider", "promise_ended")["reason"],
            "equal bits with the run up to step 16 are no longer promised: layout.tensor was 1 and "
            "is 2");
  EXPECT_THAT(outcome.err, HasSubstr("promise_ended: equal bits"));
}

TEST_F(TrainingRunsTest, ALossThatIsNoNumberEndsTheRunAndIsNeverSaved) {
  const Outcome outcome = Train(
      "--set run.dir=wild --set optimizer.lr=1e30 --set lr_schedule.steps=40 "
      "--set validation.every_steps=0 --set checkpoint.every_steps=10");
  ASSERT_EQ(outcome.exit_code, 3) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("is not finite: nothing is saved from here on"));
  EXPECT_TRUE(LastEvent("wild", "checkpoint_saved").is_null());
  EXPECT_THAT(LastEvent("wild", "stop")["reason"].get<std::string>(), HasSubstr("not finite"));
}

TEST_F(TrainingRunsTest, TooFewProcessesAreRefusedWithTheArithmetic) {
  const Outcome outcome = Train("--set layout.data=4", Mpirun(3));
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("data 4 x tensor 1 x pipeline 1 = 4 workers and 1 "
                                     "coordinator: expected mpirun -n 5, found 3"));
  EXPECT_FALSE(place_.Exists("quiet"));
}

}  // namespace
}  // namespace trireme
