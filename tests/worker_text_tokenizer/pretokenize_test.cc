// The hand-written walkers against PCRE2 running the published pattern.
#include "worker/text/pretokenize.h"

#include <gtest/gtest.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include "cluster/base/rng.h"

namespace trireme {
namespace {

std::vector<std::string> Pieces(const PreTokenizer& words, std::string_view text, size_t block) {
  std::vector<std::string> pieces;
  std::vector<size_t> ends(block);
  size_t begin = 0, piece = 0;
  while (const size_t count = words.Split(text, &begin, ends)) {
    for (size_t i = 0; i < count; ++i) {
      pieces.emplace_back(text.substr(piece, ends[i] - piece));
      piece = ends[i];
    }
  }
  EXPECT_EQ(piece, text.size());
  return pieces;
}

// Draws texts of 1 to 40 characters from one to three groups of characters.
class TextGenerator {
 public:
  explicit TextGenerator(uint64_t seed) : rng_(seed, RngUse::kTest, 0) {
    for (UChar32 c = 0; c < 0x110000; ++c) {
      // Characters that ICU and PCRE2 both know, whatever their versions: Unicode 13 and before.
      UVersionInfo age;
      u_charAge(c, age);
      if (age[0] > 0 && age[0] <= 13 && !U_IS_SURROGATE(c)) all_.push_back(c);
    }
    groups_ = {Characters(U"'sStTmMdDrReEvVlL\u017fxy"),
               Characters(U" \t\n\r\v\f\u0085\u00a0\u2028\u3000\u180e\u200b"),
               Characters(U"  \n\r/"),
               Characters(U"aZ\u00e9\u01c5\u02b0\u00aa\u4e2d\u0301\u0e34\u05d0A\u0416\u0436"),
               Characters(U"019\u0663\u00b2\u2167\u0e51"),
               Characters(U".,!?;:-_=+*#@/\\|\"'`\u20ac\u3002\U0001f600\u200d\ufe0f"),
               all_};
  }

  std::string Next() {
    const uint64_t length = 1 + rng_.Below(40, element_++);
    const uint64_t group_count = 1 + rng_.Below(3, element_++);
    std::vector<const std::vector<UChar32>*> chosen;
    for (uint64_t i = 0; i < group_count; ++i) {
      chosen.push_back(&groups_[rng_.Below(groups_.size(), element_++)]);
    }
    std::string text;
    for (uint64_t i = 0; i < length; ++i) {
      const auto& group = *chosen[rng_.Below(chosen.size(), element_++)];
      const UChar32 c = group[rng_.Below(group.size(), element_++)];
      char bytes[4];
      int32_t size = 0;
      U8_APPEND_UNSAFE(bytes, size, c);
      text.append(bytes, size);
    }
    return text;
  }

 private:
  static std::vector<UChar32> Characters(std::u32string_view text) {
    return {text.begin(), text.end()};
  }
  CounterRng rng_;
  uint64_t element_ = 0;
  std::vector<UChar32> all_;
  std::vector<std::vector<UChar32>> groups_;
};

class KnownPatternTest : public testing::TestWithParam<const char*> {};

TEST_P(KnownPatternTest, HandWrittenAndRegexCutAlike) {
  const std::string pattern = PatternByName(GetParam());
  const auto known = MakeKnownPreTokenizer(pattern);
  ASSERT_NE(known, nullptr);
  const auto regex = MakeRegexPreTokenizer(pattern);
  ASSERT_TRUE(regex.ok()) << regex.status().message();
  TextGenerator texts(20261123);
  for (int i = 0; i < 20000; ++i) {
    const std::string text = texts.Next();
    ASSERT_EQ(Pieces(*known, text, 7), Pieces(*regex.value(), text, 512))
        << testing::PrintToString(text);
  }
}

TEST_P(KnownPatternTest, EveryCharacterHasTheClassThatRegexGivesIt) {
  const std::string pattern = PatternByName(GetParam());
  const auto known = MakeKnownPreTokenizer(pattern);
  const auto regex = MakeRegexPreTokenizer(pattern);
  ASSERT_TRUE(regex.ok());
  for (UChar32 c = 0; c < 0x110000; ++c) {
    UVersionInfo age;
    u_charAge(c, age);
    if (age[0] == 0 || age[0] > 13 || U_IS_SURROGATE(c)) continue;
    std::string text = "A";
    char bytes[4];
    int32_t size = 0;
    U8_APPEND_UNSAFE(bytes, size, c);
    text.append(bytes, size).append("a1").append(bytes, size).append(" ").append(bytes, size);
    ASSERT_EQ(Pieces(*known, text, 64), Pieces(*regex.value(), text, 64)) << "U+" << std::hex << c;
  }
}

INSTANTIATE_TEST_SUITE_P(Names, KnownPatternTest,
                         testing::Values("gpt2", "cl100k", "cl100k_end", "o200k", "qwen"));

TEST(PreTokenizerTest, KnowsThePublishedNames) {
  for (const char* name : {"gpt2", "cl100k", "o200k", "qwen"}) {
    EXPECT_EQ(NameOfPattern(PatternByName(name)), name);
  }
  EXPECT_EQ(PatternByName("llama3"), PatternByName("cl100k"));
  EXPECT_EQ(PatternByName("\\w+"), "\\w+");
  EXPECT_EQ(NameOfPattern("\\w+"), "");
}

TEST(PreTokenizerTest, KeepsTheGapsBetweenMatches) {
  const auto digits = MakePreTokenizer("\\d{2}");
  ASSERT_TRUE(digits.ok());
  const std::vector<std::string> expected = {"ab", "12", "34", "5c"};
  EXPECT_EQ(Pieces(*digits.value(), "ab12345c", 3), expected);
}

TEST(PreTokenizerTest, EmptyMatchesCutNothing) {
  const auto empty = MakePreTokenizer("x*");
  ASSERT_TRUE(empty.ok());
  const std::vector<std::string> expected = {"\u00e9a", "xx", "b"};
  EXPECT_EQ(Pieces(*empty.value(), "\u00e9axxb", 2), expected);
}

TEST(PreTokenizerTest, LongRunsDoNotExhaustTheRegexStack) {
  const auto regex = MakeRegexPreTokenizer("(?:a|b)+|\\s+(?!\\S)|\\s+");
  ASSERT_TRUE(regex.ok());
  const std::string run(300000, 'a');
  EXPECT_EQ(Pieces(*regex.value(), run + " x", 4).front(), run);
}

TEST(PreTokenizerTest, RefusesAPatternThatDoesNotCompile) {
  const auto broken = MakePreTokenizer("(unclosed");
  ASSERT_FALSE(broken.ok());
  EXPECT_EQ(broken.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(broken.status().message().find("\"(unclosed\" does not compile"), std::string::npos)
      << broken.status().message();
}

}  // namespace
}  // namespace trireme
