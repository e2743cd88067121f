// trireme doctor's words on GPUs, on a machine that need not have any.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace trireme {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST(DoctorTest, SaysWhyThereIsNoGpuOrWhatItIs) {
  Workplace place;
  const Outcome outcome = place.Run("doctor --json", "TRIREME_NCCL_LIBRARY=/nowhere/libnccl.so");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const json doctor = json::parse(outcome.out);
  const json& cuda = doctor["cuda"];
  EXPECT_EQ(cuda["built"], doctor["cuda_built"]);
  if (cuda["why_not"].is_null()) {
    EXPECT_FALSE(cuda["gpus"].empty());
  } else {
    EXPECT_TRUE(cuda["gpus"].empty());
    EXPECT_EQ(Lines(cuda["why_not"]), 0);
    EXPECT_EQ(cuda["why_not"].get<std::string>().find("this build has no CUDA") == 0,
              !cuda["built"].get<bool>())
        << cuda["why_not"];
  }
  EXPECT_EQ(cuda["has_nccl"], false);
  EXPECT_THAT(cuda["nccl"].get<std::string>(), HasSubstr("no NCCL: /nowhere/libnccl.so"));

  const Outcome text = place.Run("doctor", "TRIREME_NCCL_LIBRARY=/nowhere/libnccl.so");
  EXPECT_THAT(text.out, HasSubstr("nccl          no NCCL: /nowhere/libnccl.so"));
}

}  // namespace
}  // namespace trireme
