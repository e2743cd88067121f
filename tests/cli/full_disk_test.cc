// A real file system that is full: exit code 4, one line, nothing half-written left behind.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;

class FullDiskTest : public SmallRunTest {
 protected:
  void SetUp() override {
    std::filesystem::create_directories(place_.Path("small"));
    const std::string there = "cd " + place_.Path("").string() + " && ";
    if (std::system((there + OnDiskOf("16k") + " true 2>/dev/null").c_str()) != 0) {
      GTEST_SKIP() << "mounting a small file system needs root";
    }
    MakeTokens();
  }

  // Runs a command with a file system of that size at small/, in a mount namespace of its own.
  // Left() says what was there at the end. Blocks are of 4 KiB.
  static std::string OnDiskOf(const std::string& size) {
    return "unshare -m sh -c 'mount -t tmpfs -o size=" + size +
           R"( none small && "$@"; code=$?; (cd small && find . -mindepth 1) >left; exit $code' --)";
  }
  std::string Left() const { return place_.Read("left"); }
  static constexpr char kNoSpace[] = "No space left on device";
};

// The shell's limit on the size of files: an error like another.
TEST_F(FullDiskTest, ALimitOnFilesIsTold) {
  const std::string limit = "ulimit -f 8 &&";
  ExpectRefused(
      place_.Run("pack text.txt text.txt text.txt --tokenizer tokenizer.json --out large", limit),
      4, "cannot be written: File too large");
  EXPECT_FALSE(place_.Exists("large.bin"));
}

TEST_F(FullDiskTest, Clean) {
  ExpectRefused(place_.Run("clean text.txt --out small/clean.jsonl", OnDiskOf("16k")), 4,
                "small/clean.jsonl: cannot be written: No space left on device");
  EXPECT_EQ(Left(), "");
  // Room for the text or for the report beside it, not for both.
  ExpectRefused(place_.Run("clean text.txt --out small/clean.jsonl.zst", OnDiskOf("4k")), 4,
                "small/clean.jsonl.zst: cannot be written: No space left on device");
  EXPECT_EQ(Left(), "");
}

TEST_F(FullDiskTest, TokenizerTrain) {
  const std::string train = "tokenizer train text.txt --vocab-size 300 --out small/tokenizer.json";
  ExpectRefused(place_.Run(train, OnDiskOf("4k")), 4,
                "small/tokenizer.json: cannot be written: No space left on device");
  EXPECT_EQ(Left(), "");
}

TEST_F(FullDiskTest, Pack) {
  ExpectRefused(place_.Run("pack text.txt text.txt text.txt --tokenizer tokenizer.json --out "
                           "small/corpus",
                           OnDiskOf("16k")),
                4, "small/corpus");
  EXPECT_EQ(Left(), "");
}

TEST_F(FullDiskTest, ExportAndCheckpointCopy) {
  ASSERT_EQ(place_.Run("train run.yaml").exit_code, 0);
  ExpectRefused(place_.Run("export --model run --format hf --out small/hf", OnDiskOf("64k")), 4,
                kNoSpace);
  EXPECT_EQ(Left(), "");
  ExpectRefused(place_.Run("checkpoint copy run/checkpoints@4 small", OnDiskOf("64k")), 4,
                kNoSpace);
  EXPECT_EQ(Left(), "");
}

TEST_F(FullDiskTest, TrainingGoesOnToItsEndAndSaysThatNothingWasSaved) {
  const Outcome outcome =
      place_.Run("train run.yaml --set checkpoint.store=small/checkpoints", OnDiskOf("64k"));
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("step 2: checkpoint_failed: rank 1: small/checkpoints/"));
  EXPECT_THAT(outcome.err, HasSubstr("trireme train: "));
  EXPECT_THAT(outcome.err, HasSubstr(kNoSpace));
  EXPECT_EQ(Left(), "./checkpoints\n") << "and no folder of a step";
  const std::string metrics = place_.Read("run/metrics.jsonl");
  EXPECT_THAT(metrics, HasSubstr("\"step\":4,"));
  const std::string events = place_.Read("run/events.jsonl");
  EXPECT_EQ(events.find("checkpoint_saved"), std::string::npos);
  // With room the same run is done from its beginning.
  EXPECT_EQ(place_.Run("train run.yaml").exit_code, 0);
  EXPECT_TRUE(place_.Exists("run/checkpoints/step_00000004/manifest.json"));
}

TEST_F(FullDiskTest, AStoreWithoutRoomForTheCheckpointOfTheOneBeforeIsRefused) {
  ASSERT_EQ(place_.Run("train run.yaml").exit_code, 0);
  const std::string config = place_.Read("run/config.yaml");
  const std::string more = "train run.yaml --set lr_schedule.steps=6 --set checkpoint.store=";
  ExpectRefused(place_.Run(more + "small/checkpoints", OnDiskOf("64k")), 4, kNoSpace);
  EXPECT_THAT(Left(), testing::Not(HasSubstr("step_"))) << Left();
  EXPECT_EQ(place_.Read("run/config.yaml"), config);
  EXPECT_EQ(place_.Run(more + "run/checkpoints").exit_code, 0);
}

TEST_F(FullDiskTest, ACheckpointThatFitsStaysWhole) {
  ASSERT_EQ(place_.Run("train run.yaml --set run.dir=roomy").exit_code, 0);
  const auto chunk =
      std::filesystem::file_size(place_.Path(ChunkOf("roomy/checkpoints/step_00000004")));
  const std::string room = std::to_string(chunk * 3 / 2 / 1024) + "k";
  const Outcome outcome =
      place_.Run("train run.yaml --set checkpoint.store=small/checkpoints", OnDiskOf(room));
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
  EXPECT_THAT(place_.Read("run/events.jsonl"), HasSubstr("\"checkpoint_saved\""));
  EXPECT_THAT(Left(), HasSubstr("./checkpoints/step_00000002/manifest.json"));
  EXPECT_THAT(Left(), testing::Not(HasSubstr("step_00000004"))) << Left();
}

TEST_F(FullDiskTest, ARunFolderWithoutRoomIsRefusedBeforeTraining) {
  const std::string train = "train run.yaml --set run.dir=small/run";
  ExpectRefused(place_.Run(train, OnDiskOf("4k")), 4,
                "small/run/tokenizer.json: cannot be written");
  EXPECT_EQ(Left(), "./run\n./run/config.yaml\n");
  const std::string fill = R"( sh -c 'echo >small/filler && exec "$@"' --)";
  ExpectRefused(place_.Run(train, OnDiskOf("4k") + fill), 4,
                "small/run/config.yaml: cannot be written: No space left on device");
  EXPECT_THAT(Left(), testing::AllOf(HasSubstr("./run\n"), testing::Not(HasSubstr("config"))));
}

}  // namespace
}  // namespace trireme
