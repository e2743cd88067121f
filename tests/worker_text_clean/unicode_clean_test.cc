#include "worker/text/unicode_clean.h"

#include <gtest/gtest.h>

#include "cluster/base/rng.h"
#include "worker/text/charset.h"

namespace trireme {
namespace {

std::string Cleaned(std::string text, TextChanges* changes) {
  *changes = {};
  CleanUnicode(&text, changes);
  return text;
}
std::string Cleaned(std::string text) {
  TextChanges changes;
  return Cleaned(std::move(text), &changes);
}
int64_t Count(const TextChanges& changes, TextChange change) {
  return changes[static_cast<size_t>(change)];
}

TEST(UnicodeCleanTest, LeavesGoodTextAlone) {
  TextChanges changes;
  const std::string good =
      "Plain text,\twith a tab.\n\n    indented code\n\n\ndef f(): caf\u00E9 \u4E2D\u6587 "
      "\U0001F600";
  EXPECT_EQ(Cleaned(good + "\n", &changes), good);
  for (const int64_t count : changes) EXPECT_EQ(count, 0);
}

TEST(UnicodeCleanTest, ComposesToNfc) {
  TextChanges changes;
  EXPECT_EQ(Cleaned("cafe\u0301 \u212B \u1112\u1161\u11AB", &changes), "caf\u00E9 \u00C5 \uD55C");
  EXPECT_EQ(Count(changes, TextChange::kNormalized), 6);
  // A character taken out may leave letter and mark side by side.
  EXPECT_EQ(Cleaned("e\u200B\u0301"), "\u00E9");
}

TEST(UnicodeCleanTest, RemovesControlAndNonCharacters) {
  TextChanges changes;
  EXPECT_EQ(
      Cleaned(std::string("a\0b\x07\x1B[0m\x7F\u0090c\uFFFD\uE000\uFFFF\uFFFC", 24), &changes),
      "ab[0mc");
  EXPECT_EQ(Count(changes, TextChange::kControl), 9);
}

TEST(UnicodeCleanTest, RemovesZeroWidthButKeepsJoinersThatMatter) {
  TextChanges changes;
  EXPECT_EQ(Cleaned("a\u200Bb\uFEFFc\u2060d\u00ADe\u200Ef\u202Ag\u200Dh", &changes), "abcdefgh");
  EXPECT_EQ(Count(changes, TextChange::kZeroWidth), 7);
  const std::string family = "\U0001F468\u200D\U0001F469\u200D\U0001F467";
  EXPECT_EQ(Cleaned(family), family);
  const std::string persian = "\u0645\u06CC\u200C\u062E\u0648\u0627\u0647\u0645";
  EXPECT_EQ(Cleaned(persian), persian);
  const std::string devanagari = "\u0915\u094D\u200D\u0937";
  EXPECT_EQ(Cleaned(devanagari), devanagari);
  EXPECT_EQ(Cleaned("x\u200D"), "x");
}

TEST(UnicodeCleanTest, MakesWhitespacePlain) {
  TextChanges changes;
  EXPECT_EQ(Cleaned("a\u00A0b\u3000c\u2009d  \r\ne\rf\u2028g\u2029h\x0Ci", &changes),
            "a b c d\ne\nf\ng\n\nh\ni");
  EXPECT_EQ(Count(changes, TextChange::kWhitespace), 10);
  EXPECT_EQ(Cleaned("\n\n  a\n\n\n\n\nb\n \n"), "  a\n\n\nb");
  EXPECT_EQ(Cleaned(" \n\t\n"), "");
}

TEST(UnicodeCleanTest, LowercasesEveryScript) {
  TextChanges changes = {};
  std::string text = "Gr\u00D6SSE \u0394\u0399\u03A3 \u0416 \u0130 \u4E2D";
  Lowercase(&text, &changes);
  EXPECT_EQ(text, "gr\u00F6sse \u03B4\u03B9\u03C2 \u0436 i\u0307 \u4E2D");
  EXPECT_EQ(Count(changes, TextChange::kLowercase), 10);
}

TEST(UnicodeCleanTest, FindsTheFirstInvalidByte) {
  EXPECT_EQ(FirstInvalidUtf8("plain \u4E2D"), std::nullopt);
  EXPECT_EQ(FirstInvalidUtf8("caf\xE9!"), 3u);
  EXPECT_EQ(FirstInvalidUtf8("\u4E2D\xE4\xB8"), 3u);
  EXPECT_EQ(FirstInvalidUtf8("\xED\xA0\x80"), 0u) << "a surrogate";
  EXPECT_EQ(FirstInvalidUtf8("abcdefgh\xC0\x80"), 8u) << "an overlong form";
}

TEST(CharsetTest, ConvertsWhatIsDeclaredAndGuessesNothing) {
  TextChanges changes = {};
  std::string page = "<meta charset=\"ISO-8859-1\"><p>caf\xE9 \x93quoted\x94";
  EXPECT_TRUE(ToUtf8(true, "", &page, &changes));
  EXPECT_NE(page.find("caf\u00E9 \u201Cquoted\u201D"), std::string::npos) << page;
  EXPECT_GT(Count(changes, TextChange::kEncoding), 0);

  std::string chinese =
      "<meta http-equiv=Content-Type content='text/html; charset=gb2312'>\xD6\xD0\xCE\xC4";
  EXPECT_TRUE(ToUtf8(true, "", &chinese, &changes));
  EXPECT_NE(chinese.find("\u4E2D\u6587"), std::string::npos);

  std::string plain = "caf\xE9";
  EXPECT_FALSE(ToUtf8(false, "", &plain, &changes));
  plain = "caf\xE9";
  EXPECT_TRUE(ToUtf8(false, "windows-1252", &plain, &changes));
  EXPECT_EQ(plain, "caf\u00E9");
  std::string wrong = "\xFF\xFE\xFF binary";
  EXPECT_FALSE(ToUtf8(false, "euc-jp", &wrong, &changes));
  EXPECT_EQ(CheckEncodingName("latin-9000").message(),
            "--encoding latin-9000: unknown; expected a name like windows-1252 or gb18030");
}

TEST(CharsetTest, TakesStrayBytesOutOfUtf8) {
  TextChanges changes = {};
  std::string text = "\u4E2D\u6587\u4E2D\u6587\u4E2D\u6587\u4E2D\u6587\u4E2D\u6587 ok \xE4\xB8";
  EXPECT_TRUE(ToUtf8(false, "", &text, &changes));
  EXPECT_EQ(text, "\u4E2D\u6587\u4E2D\u6587\u4E2D\u6587\u4E2D\u6587\u4E2D\u6587 ok ");
  EXPECT_EQ(Count(changes, TextChange::kInvalidUtf8), 1);
}

TEST(UnicodeCleanTest, AnyBytesAreSurvivedAndTwiceIsOnce) {
  const CounterRng rng(4, RngUse::kTest, 2);
  uint64_t draw = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text;
    const uint64_t size = rng.Below(40, draw++);
    for (uint64_t i = 0; i < size; ++i) {
      // Characters of all planes, with many of the special ones.
      uint32_t c = static_cast<uint32_t>(rng.Below(0x3000, draw++));
      if (rng.Below(8, draw++) == 0) c = 0x200A + static_cast<uint32_t>(rng.Below(8, draw++));
      if (rng.Below(8, draw++) == 0) c = static_cast<uint32_t>(rng.Below(0x110000, draw++));
      if (c >= 0xD800 && c < 0xE000) c = ' ';
      if (c < 0x80) {
        text.push_back(static_cast<char>(c));
      } else if (c < 0x800) {
        text += {static_cast<char>(0xC0 | (c >> 6)), static_cast<char>(0x80 | (c & 0x3F))};
      } else if (c < 0x10000) {
        text += {static_cast<char>(0xE0 | (c >> 12)), static_cast<char>(0x80 | ((c >> 6) & 0x3F)),
                 static_cast<char>(0x80 | (c & 0x3F))};
      } else {
        text += {static_cast<char>(0xF0 | (c >> 18)), static_cast<char>(0x80 | ((c >> 12) & 0x3F)),
                 static_cast<char>(0x80 | ((c >> 6) & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
      }
    }
    const std::string once = Cleaned(text);
    ASSERT_TRUE(IsValidUtf8(once));
    std::string trimmed = once;
    ASSERT_EQ(Cleaned(trimmed), once) << "round " << round;
  }
}

}  // namespace
}  // namespace trireme
