#include "cluster/device/gpu_info.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <fstream>
#include <thread>

namespace trireme {
namespace {

class SysfsTest : public testing::Test {
 protected:
  SysfsTest() : root_(testing::TempDir() + "sysfs" + std::to_string(getpid())) {}
  ~SysfsTest() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    const std::filesystem::path file = root_ + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  }
  const std::string root_;
};

TEST_F(SysfsTest, TellsTheNodeOfAPciDevice) {
  Write("/bus/pci/devices/0000:1b:00.0/numa_node", "1");
  Write("/bus/pci/devices/0000:1c:00.0/numa_node", "-1");
  EXPECT_EQ(NumaNodeOfPci("0000:1B:00.0", root_), 1);
  EXPECT_EQ(NumaNodeOfPci("0000:1C:00.0", root_), -1);
  EXPECT_EQ(NumaNodeOfPci("0000:99:00.0", root_), -1);
}

TEST_F(SysfsTest, BindsToTheCpusThatTheProcessMayUse) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  int usable = 0;
  while (!CPU_ISSET(usable, &before)) ++usable;
  Write("/devices/system/node/node0/cpulist", std::to_string(usable) + ",1000-1020");
  Write("/devices/system/node/node1/cpulist", "1000-1020");
  std::thread([&] {
    EXPECT_FALSE(BindThreadToNumaNode(1, root_));
    EXPECT_FALSE(BindThreadToNumaNode(2, root_));
    cpu_set_t now;
    ASSERT_EQ(sched_getaffinity(0, sizeof(now), &now), 0);
    EXPECT_TRUE(CPU_EQUAL(&now, &before));
    EXPECT_TRUE(BindThreadToNumaNode(0, root_));
    ASSERT_EQ(sched_getaffinity(0, sizeof(now), &now), 0);
    EXPECT_EQ(CPU_COUNT(&now), 1);
    EXPECT_TRUE(CPU_ISSET(usable, &now));
  }).join();
}

TEST(CpuListTest, ReadsRangesAndSingles) {
  EXPECT_EQ(ParseCpuList("0-2,8"), (std::vector<int>{0, 1, 2, 8}));
  EXPECT_EQ(ParseCpuList("5"), std::vector<int>{5});
  EXPECT_TRUE(ParseCpuList("").empty());
}

TEST(GpuInfoTest, TellsTheGpusOfTheMachine) {
  const auto gpus = Gpus();
  ASSERT_TRUE(gpus.ok()) << gpus.status().message();
  ASSERT_GE(gpus->size(), 1u);
  EXPECT_FALSE(gpus->front().name.empty());
  EXPECT_GE(gpus->front().capability_major, 8);
  EXPECT_GT(gpus->front().memory_bytes, 0);
  EXPECT_FALSE(CanAccessPeer(0, 0));
  ASSERT_TRUE(CudaVersions().ok());
  EXPECT_GT(CudaVersions()->runtime, 0);
}

}  // namespace
}  // namespace trireme
