#include "cluster/comm/copy_choice.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

constexpr int64_t kBytes = 256 << 10;

// Sends `messages`; how many of them went through the staging area.
int StagedOf(CopyChoice* choice, int messages, Micros staged, Micros read, int64_t bytes = kBytes) {
  int count = 0;
  for (int i = 0; i < messages; ++i) {
    const CopyChoice::Way way = choice->Next(bytes);
    count += way == CopyChoice::kStaged;
    choice->Took(way, bytes, way == CopyChoice::kStaged ? staged : read);
  }
  return count;
}

TEST(CopyChoiceTest, TheQuickerWayIsTakenAndTheOtherOneTried) {
  CopyChoice same_cache, two_caches;
  const int messages = 10 * CopyChoice::kTryEvery;
  EXPECT_EQ(StagedOf(&same_cache, messages, 20, 33), messages - 11) << "one at first, ten trials";
  EXPECT_EQ(StagedOf(&two_caches, messages, 100, 33), 11);
}

TEST(CopyChoiceTest, FollowsProcessesThatMove) {
  CopyChoice choice;
  StagedOf(&choice, 1000, 20, 33);
  EXPECT_LT(StagedOf(&choice, 1000, 100, 33), 150);
  EXPECT_GT(StagedOf(&choice, 1000, 20, 33), 850);
}

TEST(CopyChoiceTest, AMessageThatWasInterruptedDoesNotCount) {
  CopyChoice choice;
  StagedOf(&choice, 100, 20, 33);
  choice.Took(CopyChoice::kStaged, kBytes, 5000);
  EXPECT_EQ(choice.Next(kBytes), CopyChoice::kStaged);
}

TEST(CopyChoiceTest, EachSizeHasItsOwnAnswer) {
  CopyChoice choice;
  EXPECT_GT(StagedOf(&choice, 100, 20, 33, 256 << 10), 90);
  EXPECT_LT(StagedOf(&choice, 100, 300, 133, 1 << 20), 10);
  EXPECT_GT(StagedOf(&choice, 100, 20, 33, 300 << 10), 90);
}

TEST(CopyChoiceTest, SmallMessagesFollowTheLargerOnes) {
  CopyChoice choice;
  EXPECT_EQ(choice.Next(5000), CopyChoice::kStaged);
  StagedOf(&choice, 100, 70, 20, CopyChoice::kTimedBytes);
  choice.Took(CopyChoice::kStaged, 5000, 0);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(choice.Next(5000), CopyChoice::kRead);
}

}  // namespace
}  // namespace trireme
