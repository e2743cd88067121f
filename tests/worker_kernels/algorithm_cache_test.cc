#include "worker/kernels/algorithm_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace trireme {
namespace {

class AlgorithmCacheTest : public testing::Test {
 protected:
  AlgorithmCacheTest() : path_(testing::TempDir() + "algorithms" + std::to_string(getpid())) {
    std::filesystem::remove(path_);
  }
  ~AlgorithmCacheTest() override { std::filesystem::remove(path_); }
  const std::string path_;
  const AlgorithmBits a_{1, 2, 3, ~uint64_t{0}, 5, 6, 7, 8}, b_{9};
};

TEST_F(AlgorithmCacheTest, KeepsChoicesForLaterProcesses) {
  AlgorithmCache(path_).Add("m8_n16", a_);
  const AlgorithmCache later(path_);
  ASSERT_NE(later.Find("m8_n16"), nullptr);
  EXPECT_EQ(*later.Find("m8_n16"), a_);
  EXPECT_EQ(later.Find("m8"), nullptr);
}

TEST_F(AlgorithmCacheTest, TheFirstOfTwoProcessesIsRight) {
  AlgorithmCache first(path_), second(path_);
  EXPECT_EQ(first.Add("key", a_), a_);
  EXPECT_EQ(second.Add("key", b_), a_);
  EXPECT_EQ(*AlgorithmCache(path_).Find("key"), a_);
}

TEST_F(AlgorithmCacheTest, PassesOverCutAndForeignLines) {
  std::ofstream(path_)
      << "cut 1 2 3\nforeign words\n\nwhole 9 0 0 0 0 0 0 0 end\ncut 9 0 0 0 0 0 0";
  const AlgorithmCache cache(path_);
  EXPECT_EQ(cache.Find("cut"), nullptr);
  EXPECT_EQ(cache.Find("foreign"), nullptr);
  ASSERT_NE(cache.Find("whole"), nullptr);
  EXPECT_EQ(*cache.Find("whole"), b_);
}

TEST_F(AlgorithmCacheTest, WorksWithoutAFile) {
  AlgorithmCache cache("/nowhere/at/all");
  EXPECT_EQ(cache.Add("key", a_), a_);
  EXPECT_EQ(cache.Add("key", b_), a_);
}

}  // namespace
}  // namespace trireme
