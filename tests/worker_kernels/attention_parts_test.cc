#include "worker/kernels/attention_parts.h"

#include <gtest/gtest.h>

namespace trireme {
namespace {

TEST(AttentionPartsTest, SequencesAreDealtOutBeforeHeads) {
  std::optional<AttentionPart> part = AttentionPart{6, 25};
  for (const AttentionPart& next : {AttentionPart{3, 25}, {1, 25}, {1, 5}, {1, 1}}) {
    part = SmallerPart(*part);
    ASSERT_TRUE(part);
    EXPECT_TRUE(*part == next) << next.sequences << " " << next.key_heads;
  }
  EXPECT_FALSE(SmallerPart(*part));
}

TEST(AttentionPartsTest, TheLargestPartThatFitsIsTaken) {
  // GPT-2 124M, 32 x 1,024: 805 MB as it is.
  constexpr int64_t kGiB = int64_t{1} << 30;
  EXPECT_TRUE(PartThatFits({32, 12}, 1, 1024, 80 * kGiB) == (AttentionPart{32, 12}));
  EXPECT_EQ(AttentionWorkspace({32, 12}, 1, 1024), 2ll * 32 * 12 * 1024 * 1024);
  // Llama 3 8B: a sequence of 8,192 fits, one of 16,384 goes by two key heads, one of 32,768 by
  // one, on a GPU with eight times the memory that it takes.
  EXPECT_TRUE(PartThatFits({2, 8}, 4, 8192, 80 * kGiB) == (AttentionPart{1, 8}));
  EXPECT_TRUE(PartThatFits({2, 8}, 4, 16384, 80 * kGiB) == (AttentionPart{1, 2}));
  EXPECT_TRUE(PartThatFits({2, 8}, 4, 32768, 80 * kGiB) == (AttentionPart{1, 1}));
  EXPECT_EQ(AttentionWorkspace({1, 1}, 4, 32768), 8 * kGiB);
  EXPECT_FALSE(PartThatFits({2, 8}, 4, 32768, 63 * kGiB));
  EXPECT_FALSE(PartThatFits({2, 8}, 4, 65536, 80 * kGiB));
  // Rows and columns are padded to 64.
  EXPECT_EQ(AttentionWorkspace({1, 1}, 1, 65), 2 * 128 * 128);
}

}  // namespace
}  // namespace trireme
