// Merges on record from Hugging Face's BpeTrainer over the small corpus of the test data.
#include "worker/text/bpe_trainer.h"

#include <sstream>

#include "tests/worker_text_tokenizer/tokenizer_test_files.h"
#include "worker/text/byte_level.h"

namespace trireme {
namespace {

std::string Spell(const BpeDefinition& definition) {
  std::string lines;
  for (const BpeMerge& merge : definition.merges) {
    lines += ByteLevelEncode(definition.tokens[merge.left]) + " " +
             ByteLevelEncode(definition.tokens[merge.right]) + "\n";
  }
  return lines;
}

class GoldenMergesTest : public testing::TestWithParam<const char*> {};

TEST_P(GoldenMergesTest, AreThoseOfHuggingFace) {
  const std::string expected = ReadAll(TestData(std::string("merges_") + GetParam() + ".txt"));
  const auto merges = static_cast<int64_t>(std::count(expected.begin(), expected.end(), '\n'));
  EXPECT_EQ(Spell(TrainSmall(GetParam(), 257 + merges)), expected);
}

INSTANTIATE_TEST_SUITE_P(Patterns, GoldenMergesTest, testing::Values("gpt2", "cl100k", "o200k"));

TEST(BpeTrainerTest, ThreadsDoNotChangeTheResult) {
  const std::string one = Spell(TrainSmall("cl100k", 900, 1));
  for (const int threads : {2, 3, 5}) EXPECT_EQ(Spell(TrainSmall("cl100k", 900, threads)), one);
}

TEST(BpeTrainerTest, SpecialTokensComeFirstThenBytesInTheOrderOfTheirSpelling) {
  BpeTrainOptions options;
  options.vocab_size = 258;
  options.special_tokens = {"<pad>", "<|endoftext|>"};
  WordTable words;
  words.Add("ab", 3);
  auto definition = TrainBpe(words, options);
  ASSERT_TRUE(definition.ok());
  EXPECT_EQ(definition->tokens[0], "<pad>");
  EXPECT_EQ(definition->end_of_text, 1);
  EXPECT_EQ(definition->tokens[2], "!");
  EXPECT_EQ(definition->tokens.back(), "\xad");  // spelled last, U+0143
  EXPECT_TRUE(definition->merges.empty());
}

TEST(BpeTrainerTest, StopsAtTheMinimumFrequency) {
  WordTable words;
  words.Add("ab", 5);
  words.Add("cd", 2);
  BpeTrainOptions options;
  options.min_frequency = 3;
  EXPECT_EQ(TrainBpe(words, options)->merges.size(), 1u);
  options.min_frequency = 0;
  EXPECT_EQ(TrainBpe(words, options)->merges.size(), 2u);
}

TEST(BpeTrainerTest, EqualCountsGoToTheSmallestIds) {
  WordTable words;
  words.Add("xy", 4);
  words.Add("ab", 4);
  const auto definition = TrainBpe(words, {});
  ASSERT_TRUE(definition.ok());
  EXPECT_EQ(Spell(*definition), "a b\nx y\n");
}

TEST(BpeTrainerTest, RefusesAVocabularyWithoutRoomForBytes) {
  BpeTrainOptions options;
  options.vocab_size = 256;
  const auto refused = TrainBpe(WordTable(), options);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(refused.status().message().find("vocabulary size 256: expected 257"), std::string::npos)
      << refused.status().message();
}

TEST(BpeTrainerTest, RefusesAnEmptySpecialToken) {
  BpeTrainOptions options;
  options.special_tokens = {""};
  EXPECT_EQ(TrainBpe(WordTable(), options).status().message(), "a special token is empty");
}

TEST(WordCounterTest, CountsTheSameWhateverTheCutsAndThreads) {
  // Longer than a batch, so that the text is cut; with a broken byte in between.
  std::string text;
  while (text.size() < (3u << 20)) text += "the oars' rhythm, 42 strokes \xff and\n more; ";
  std::map<std::string, int64_t> counts[2];
  for (const int threads : {1, 4}) {
    auto counter = WordCounter::Create(PatternByName("cl100k"), threads);
    ASSERT_TRUE(counter.ok());
    counter.value()->Add(text);
    counter.value()->Add("the end");
    const WordTable words = counter.value()->Finish();
    for (size_t i = 0; i < words.size(); ++i) {
      counts[threads == 4][std::string(words.word(i))] = words.count(i);
    }
  }
  EXPECT_EQ(counts[0], counts[1]);
  EXPECT_EQ(counts[0][" end"], 1);
  EXPECT_EQ(counts[0][" oars"], counts[0][" more"]);
  EXPECT_EQ(counts[0].count("\xff"), 0u);
}

TEST(WordTableTest, KeepsCountsWhileItGrows) {
  WordTable table;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 20000; ++i) table.Add("word" + std::to_string(i), i);
  }
  ASSERT_EQ(table.size(), 20000u);
  for (int i = 0; i < 20000; ++i) {
    ASSERT_EQ(table.word(i), "word" + std::to_string(i));
    ASSERT_EQ(table.count(i), 3 * i);
  }
}

}  // namespace
}  // namespace trireme
