// Processes that die or fall silent at named points of a checkpoint's way: what is on the disk
// then, and that the run goes on to the bits of the quiet one.
#include "tests/training_runs/training_runs.h"

namespace trireme {
namespace {

using testing::HasSubstr;

class FaultPointsTest : public TrainingRunsTest {
 protected:
  // Two workers and `fault`; then the same run as threads, from the checkpoint of `step` on.
  void Fails(const std::string& fault, const std::string& options = "") {
    ASSERT_EQ(Train("").exit_code, 0);
    const Outcome outcome = Train("--set run.dir=hurt --set layout.data=2" + options,
                                  Mpirun(3, "TRIREME_FAULT=" + fault));
    ASSERT_NE(outcome.exit_code, 0) << outcome.err;
  }
  void GoesOnFrom(int step) {
    const Outcome outcome = Train("--set run.dir=hurt");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(LastEvent("hurt", "resume")["step"], step);
    EXPECT_EQ(Hash("hurt"), Hash("quiet"));
    EXPECT_EQ(Losses("hurt"), Losses("quiet"));
  }
  std::string Journal() { return place_.Read("hurt/journal/journal.log"); }
};

TEST_F(FaultPointsTest, AWorkerDiesWithItsChunksWrittenAndNotReported) {
  Fails("2:8:checkpoint.after_chunks:kill");
  EXPECT_EQ(LastEvent("hurt", "worker_lost")["worker"], 2);
  EXPECT_TRUE(place_.Exists(Checkpoint("hurt", 8, "rank_00001_0.safetensors")));
  EXPECT_FALSE(place_.Exists(Checkpoint("hurt", 8, "manifest.json")));
  GoesOnFrom(4);
}

TEST_F(FaultPointsTest, TheCoordinatorDiesBeforeTheManifest) {
  Fails("0:8:manifest.before_commit:kill");
  for (const char* chunk : {"rank_00000_0.safetensors", "rank_00001_0.safetensors"}) {
    EXPECT_TRUE(place_.Exists(Checkpoint("hurt", 8, chunk))) << chunk;
  }
  EXPECT_FALSE(place_.Exists(Checkpoint("hurt", 8, "manifest.json")));
  GoesOnFrom(4);
}

TEST_F(FaultPointsTest, TheCoordinatorDiesWithTheManifestInPlaceAndNotYetInTheJournal) {
  Fails("0:8:manifest.after_commit:kill");
  EXPECT_TRUE(place_.Exists(Checkpoint("hurt", 8, "manifest.json")));
  EXPECT_THAT(Journal(), testing::Not(HasSubstr("\"kind\":\"checkpoint\",\"generation\":1,"
                                                "\"step\":8")));
  EXPECT_THAT(Journal(), HasSubstr("\"kind\":\"checkpoint\",\"generation\":1,\"step\":4"));
  GoesOnFrom(8);
}

// Given up by the coordinator, it must not write beside those that go on.
TEST_F(FaultPointsTest, AWorkerWithoutALeaseWritesNothing) {
  // Its phase is that of step 9, which was granted with the order to write step 8.
  Fails("2:9:checkpoint:silent");
  EXPECT_EQ(LastEvent("hurt", "worker_lost")["worker"], 2);
  EXPECT_THAT(LastEvent("hurt", "worker_lost")["reason"].get<std::string>(),
              HasSubstr("its lease of 300 ms lapsed"));
  EXPECT_FALSE(place_.Exists(Checkpoint("hurt", 8, "rank_00001_0.safetensors")));
  GoesOnFrom(4);
}

// A replica whose memory has changed is found before its state is saved. With ZeRO each step's
// gather would have mended it.
TEST_F(FaultPointsTest, ABitThatFlipsInOneReplicaIsFound) {
  Fails("2:9:state.committed:flip", " --set layout.zero=0");
  const std::string reason = LastEvent("hurt", "corruption")["reason"];
  EXPECT_THAT(reason, testing::ContainsRegex("step 10: weights and optimizer state: rank [12] has "
                                             "checksum [0-9a-f]+, rank [12] has [0-9a-f]+"));
  EXPECT_EQ(LastEvent("hurt", "stop")["exit_code"], 5);
  GoesOnFrom(8);
}

TEST_F(FaultPointsTest, APlanThatIsNoneIsRefused) {
  for (const std::string fault : {"", "2:8:checkpoint", "2:8:checkpoint:burn", "x:8:data:kill"}) {
    ExpectRefused(Train("", "env TRIREME_FAULT=" + fault), 2, "TRIREME_FAULT='" + fault + "'");
  }
  const Outcome outcome = Train("--set layout.data=2", Mpirun(3, "TRIREME_FAULT=2:8:data:burn"));
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("trireme train: TRIREME_FAULT='2:8:data:burn': expected "
                                     "RANK:STEP:POINT:kill|stop|hang|silent"));
  EXPECT_FALSE(place_.Exists("quiet"));
}

}  // namespace
}  // namespace trireme
