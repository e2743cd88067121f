#include "cluster/launch/device_topology.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace trireme {
namespace {

namespace fs = std::filesystem;

// A machine of two sockets: GPU and mlx5_0 behind one switch, eth0 at another port of that root,
// mlx5_1 at another root of the socket, mlx5_2 at the other socket; lo has no device.
class TopologyTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "trireme_sysfs_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    root_ = name;
    Device("pci0000:16/0000:16:01.0/0000:17:00.0/0000:18:00.0", 0, "bus/pci/devices/0000:18:00.0");
    Device("pci0000:16/0000:16:01.0/0000:17:00.0/0000:19:00.0", 0,
           "class/infiniband/mlx5_0/device");
    Device("pci0000:16/0000:16:02.0/0000:1a:00.0", 0, "class/net/eth0/device");
    Device("pci0000:30/0000:30:01.0/0000:31:00.0", 0, "class/infiniband/mlx5_1/device");
    Device("pci0000:80/0000:80:01.0/0000:81:00.0", 1, "class/infiniband/mlx5_2/device");
    fs::create_directories(root_ / "class/net/lo");
    fs::create_directories(root_ / "devices/system/node/node0");
    std::ofstream(root_ / "devices/system/node/node0/distance") << "10 21\n";
  }
  void TearDown() override { fs::remove_all(root_); }

  void Device(const std::string& path, int numa, const std::string& link) {
    const fs::path device = root_ / "devices" / path;
    fs::create_directories(device);
    std::ofstream(device / "numa_node") << numa << "\n";
    fs::create_directories((root_ / link).parent_path());
    fs::create_directory_symlink(device, root_ / link);
  }
  fs::path root_;
};

TEST_F(TopologyTest, CardsAreTheNearerTheMoreOfTheWayIsCommon) {
  const auto distances = NicDistances("00000000:18:00.0", root_.string());
  ASSERT_EQ(distances.size(), 4u);
  const char* const expected[][2] = {{"mlx5_0", "one PCIe switch"},
                                     {"eth0", "one PCIe root"},
                                     {"mlx5_1", "one NUMA node"},
                                     {"mlx5_2", "NUMA nodes 0 and 1, distance 21"}};
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(distances[i].nic, expected[i][0]);
    EXPECT_EQ(distances[i].text, expected[i][1]);
  }
}

TEST_F(TopologyTest, AGpuThatSysfsDoesNotKnowIsOfUnknownDistance) {
  for (const NicDistance& distance : NicDistances("0000:99:00.0", root_.string())) {
    EXPECT_EQ(distance.text, "unknown") << distance.nic;
  }
}

TEST(GpuClocksTest, LinesOfNvidiaSmiAreRead) {
  const auto gpus = ParseGpuClocks(
      "00000000:1B:00.0, 580.65.06, 1980, 2619\n00000000:43:00.0, 580.65.06, [N/A], 2619\n\n");
  ASSERT_EQ(gpus.size(), 2u);
  EXPECT_EQ(gpus[0].pci_bus_id, "0000:1b:00.0");
  EXPECT_EQ(gpus[0].driver, "580.65.06");
  EXPECT_EQ(gpus[0].sm_mhz_max, 1980);
  EXPECT_EQ(gpus[0].memory_mhz_max, 2619);
  EXPECT_EQ(gpus[1].sm_mhz_max, 0);
}

}  // namespace
}  // namespace trireme
