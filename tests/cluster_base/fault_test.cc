#include "cluster/base/fault.h"

#include <gmock/gmock.h>

namespace trireme {
namespace {

TEST(FaultTest, APlanIsReadWhole) {
  const auto fault = ParseFault("3:7:pipeline.backward:kill");
  ASSERT_TRUE(fault.ok()) << fault.status().message();
  EXPECT_TRUE(fault->At(3, 7, "pipeline.backward"));
  EXPECT_FALSE(fault->At(2, 7, "pipeline.backward"));
  EXPECT_FALSE(fault->At(3, 8, "pipeline.backward"));
  EXPECT_FALSE(fault->At(3, 7, "pipeline"));
  EXPECT_EQ(fault->action, "kill");
  EXPECT_FALSE(PlannedFault().At(0, 0, ""));
}

TEST(FaultTest, WhatIsNoPlanIsRefused) {
  for (const char* text :
       {"", "3", "3:7:data", "3:7:data:", "3:7:data:burn", "3:7::kill", "a:7:data:kill",
        "3:x:data:kill", "3:7x:data:kill", "-1:7:data:kill", "3:-7:data:kill", "3:7:data:kill:1",
        "3:7:data:killed", " 3:7:data:kill", "99999999999:7:data:kill"}) {
    const Status status = ParseFault(text).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.message(),
                testing::HasSubstr(StrCat("TRIREME_FAULT='", text,
                                          "': expected RANK:STEP:POINT:kill|stop|hang|silent")));
  }
}

}  // namespace
}  // namespace trireme
