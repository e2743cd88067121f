#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "cluster/comm/communicator.h"

namespace trireme {
namespace {

// An environment without a launcher's variables, and with `variables`; put back at the end.
class Environment {
 public:
  explicit Environment(std::vector<std::pair<std::string, std::string>> variables) {
    for (const char* name : {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "PMIX_RANK",
                             "PMIX_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS"}) {
      if (const char* value = std::getenv(name)) before_.emplace_back(name, value);
      unsetenv(name);
    }
    for (const auto& [name, value] : variables) {
      setenv(name.c_str(), value.c_str(), 1);
      ours_.push_back(name);
    }
  }
  ~Environment() {
    for (const auto& name : ours_) unsetenv(name.c_str());
    for (const auto& [name, value] : before_) setenv(name.c_str(), value.c_str(), 1);
  }

 private:
  std::vector<std::pair<std::string, std::string>> before_;
  std::vector<std::string> ours_;
};

void ExpectLaunch(const LaunchInfo& info, bool launched, int rank, int size) {
  EXPECT_EQ(info.launched, launched);
  EXPECT_EQ(info.rank, rank);
  EXPECT_EQ(info.size, size);
}

TEST(DetectLaunchTest, APlainProcessIsNotLaunched) {
  Environment environment({});
  ExpectLaunch(DetectLaunch(), false, 0, 1);
}

TEST(DetectLaunchTest, MpirunSaysRankAndSize) {
  Environment environment({{"OMPI_COMM_WORLD_RANK", "3"}, {"OMPI_COMM_WORLD_SIZE", "5"}});
  ExpectLaunch(DetectLaunch(), true, 3, 5);
}

TEST(DetectLaunchTest, MpirunInsideAnAllocationGoesBeforeItsVariables) {
  Environment environment({{"OMPI_COMM_WORLD_RANK", "3"},
                           {"OMPI_COMM_WORLD_SIZE", "5"},
                           {"SLURM_PROCID", "0"},
                           {"SLURM_STEP_NUM_TASKS", "2"}});
  ExpectLaunch(DetectLaunch(), true, 3, 5);
}

TEST(DetectLaunchTest, SrunSaysTheTasksOfItsStep) {
  Environment environment(
      {{"SLURM_PROCID", "1"}, {"SLURM_NTASKS", "8"}, {"SLURM_STEP_NUM_TASKS", "4"}});
  ExpectLaunch(DetectLaunch(), true, 1, 4);
}

TEST(DetectLaunchTest, ABatchScriptOfManyTasksIsOneProcess) {
  Environment environment({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}});
  ExpectLaunch(DetectLaunch(), false, 0, 1);
}

TEST(DetectLaunchTest, NonsenseIsIgnored) {
  Environment environment({{"OMPI_COMM_WORLD_RANK", "x"}, {"OMPI_COMM_WORLD_SIZE", "5"}});
  ExpectLaunch(DetectLaunch(), false, 0, 1);
}

TEST(MpiWorldTest, RefusesAProcessThatNobodyLaunched) {
  Environment environment({});
  const auto world = MpiWorld();
  ASSERT_FALSE(world.ok());
  EXPECT_TRUE(world.status().code() == StatusCode::kInvalidArgument ||
              world.status().code() == StatusCode::kNotBuilt)
      << world.status().message();
}

}  // namespace
}  // namespace trireme
