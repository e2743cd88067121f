// Checkpoints of a program that knew less.
#include <gmock/gmock.h>

#include "proto/config.pb.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_manifest.h"
#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using OldCheckpointTest = SmallRunTest;

TEST_F(OldCheckpointTest, KeysThatItIsTooOldForHaveTheirDefaults) {
  Train();
  const std::string file = "run/checkpoints/step_00000004/manifest.json";
  proto::Manifest manifest;
  ASSERT_TRUE(ManifestFromJson(place_.Read(file), file, &manifest).ok());
  ASSERT_EQ(manifest.config().precision().master(), "float32");
  manifest.mutable_config()->mutable_precision()->clear_master();
  place_.Write(file, ManifestToJson(&manifest));
  const Outcome outcome = place_.Run("train run.yaml --set lr_schedule.steps=6");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err.find("set aside"), std::string::npos) << outcome.err;
  EXPECT_THAT(place_.Read("run/config.yaml"), testing::HasSubstr("master: float32"));
}

}  // namespace
}  // namespace trireme
