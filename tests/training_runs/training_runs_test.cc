// Whole runs of the program: layouts, stops, resumes and lost workers end in the same bits.
#include "tests/training_runs/training_runs.h"

namespace trireme {
namespace {

using testing::HasSubstr;

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

TEST_F(TrainingRunsTest, ALostRunGoesOnInAnotherStore) {
  ASSERT_EQ(Train("").exit_code, 0);
  const std::string moved = "--set run.dir=moved --set layout.data=2 ";
  Outcome outcome = Train(moved, Mpirun(3, "TRIREME_FAULT=2:7:pipeline.backward:kill"));
  ASSERT_NE(outcome.exit_code, 0);
  outcome = Train(moved + "--set checkpoint.store=elsewhere", Mpirun(3));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("checkpoint.store is now elsewhere: step 4 was copied there "
                                     "from moved/checkpoints\n"));
  EXPECT_EQ(Hash("elsewhere"), Hash("quiet"));
  EXPECT_EQ(Losses("moved"), Losses("quiet"));
}

// Worker 2 stands still before step 5 until the coordinator has the other's request in its journal.
TEST_F(TrainingRunsTest, AStopOnRequestLeavesACheckpointAndGoesOn) {
  ASSERT_EQ(Train("").exit_code, 0);
  place_.Write("stop.sh", R"sh(
"$@" & job=$!
until_true() { while kill -0 $job && ! eval "$1"; do sleep 0.01; done 2>/dev/null; }
pid_of() { sed -n 's/.*"rank":'$1',"pid":\([0-9]*\).*/\1/p' stopped/events.jsonl; }
until_true '[ -n "$(pid_of 2)" ]'
first=$(pid_of 1) second=$(pid_of 2)
until_true 'grep -q "^State:.T" /proc/$second/status'
kill -USR1 $first
until_true 'grep -q "\"stopping\"" stopped/journal/journal.log'
kill -CONT $second
wait $job
)sh");
  const std::string rarely = " --set checkpoint.every_steps=1000";
  Outcome outcome =
      Train("--set run.dir=stopped --set layout.data=2 --set recovery.lease_ms=60000" + rarely,
            "bash stop.sh " + Mpirun(3, "TRIREME_FAULT=2:5:data:stop"));
  ASSERT_EQ(outcome.exit_code, 75) << outcome.err;
  const auto stop = LastEvent("stopped", "stop");
  EXPECT_EQ(stop["exit_code"], 75);
  const int step = stop["step"];
  EXPECT_GE(step, 5);
  EXPECT_LT(step, 12);
  EXPECT_TRUE(place_.Exists(Checkpoint("stopped", step, "manifest.json"))) << step;
  outcome = Train("--set run.dir=stopped" + rarely);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("stopped"), Hash("quiet"));
}

// A schedule of one's own, with the weight passes last.
TEST_F(TrainingRunsTest, AScheduleFromAFileHasTheBitsOfTheSerialRun) {
  ASSERT_EQ(Train("").exit_code, 0);
  const std::string first = "0F0,0F1,0B0,0F2,0B1,0F3,0B2,0B3,0W0,0W1,0W2";
  place_.Write("late.csv", first + ",0W3\n1F0,1B0,1F1,1B1,1F2,1B2,1F3,1B3,1W0,1W1,1W2,1W3\n");
  const std::string layout = "--set layout.data=2 --set layout.pipeline=2 ";
  Outcome outcome =
      Train(layout + "--set run.dir=late --set layout.pipeline_schedule=late.csv", Mpirun(5));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("late"), Hash("quiet"));
  EXPECT_EQ(Losses("late"), Losses("quiet"));
  // The file is what is run: one that leaves a weight pass out is refused.
  place_.Write("less.csv", first + "\n1F0,1B0,1F1,1B1,1F2,1B2,1F3,1B3,1W0,1W1,1W2,1W3\n");
  outcome = Train(layout + "--set run.dir=less --set layout.pipeline_schedule=less.csv");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("less.csv"));
}

// Partial sums inside a product are regrouped: no equal bits from here on, and the events say so.
// Weights without masters are saved as they are, and rounded alike on every layout.
TEST_F(TrainingRunsTest, WeightsWithoutMastersTrainToTheSameBits) {
  const std::string precision =
      "--set precision.compute=bfloat16 --set precision.master=bfloat16 "
      "--set lr_schedule.name=constant --set run.dir=";
  ASSERT_EQ(Train(precision + "serial").exit_code, 0);
  Outcome outcome = Train(precision + "mpi --set layout.data=2 --set layout.pipeline=2", Mpirun(5));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("mpi"), Hash("serial"));
  EXPECT_EQ(Losses("mpi"), Losses("serial"));
  EXPECT_LT(Values("serial")["loss of step 12"], Values("serial")["loss of step 1"]);
  // A run that goes on rounds as one that never stopped.
  ASSERT_EQ(Train(precision + "again --set lr_schedule.steps=8").exit_code, 0);
  ASSERT_EQ(Train(precision + "again --set layout.data=2").exit_code, 0);
  EXPECT_EQ(Hash("again"), Hash("serial"));
  const std::string shown = place_.Run("checkpoint show serial@12 --json").out;
  EXPECT_THAT(shown, HasSubstr("bfloat16"));
  outcome = Train(precision + "serial --set precision.master=float32");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("precision.master: float32, but the run's checkpoint has "
                                     "bfloat16"));
  outcome = Train("--set precision.master=bfloat16");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("--set precision.master=bfloat16: precision.master: bfloat16: "
                                     "expected float32, as precision.compute is float32"));
}

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

// Products are split elsewhere, so bits may differ; what is learned does not.
TEST_F(TrainingRunsTest, ARunGoesOnAcrossTensorDegreesWithTheSameLosses) {
  ASSERT_EQ(Train("").exit_code, 0);
  Outcome outcome = Train("--set run.dir=resharded --set layout.data=2 --set layout.tensor=2",
                          Mpirun(5, "TRIREME_FAULT=3:7:pipeline.backward:kill"));
  ASSERT_NE(outcome.exit_code, 0);
  ASSERT_TRUE(place_.Exists(Checkpoint("resharded", 4, "manifest.json")));
  outcome = Train("--set run.dir=resharded --set layout.pipeline=2 --set layout.data=2", Mpirun(5));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(LastEvent("resharded", "resume")["step"], 4);
  EXPECT_THAT(LastEvent("resharded", "promise_ended")["reason"].get<std::string>(),
              HasSubstr("layout.tensor was 2 and is 1"));
  const auto expected = Values("quiet"), values = Values("resharded");
  ASSERT_EQ(values.size(), expected.size());
  for (const auto& [name, value] : expected) {
    ASSERT_TRUE(values.contains(name)) << name;
    const bool exact = name.starts_with("tokens") || name.starts_with("lr");
    EXPECT_NEAR(values.at(name), value, exact ? 0 : 1e-6 * value) << name;
  }
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
