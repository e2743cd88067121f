#include "worker/text/cleaner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cctype>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "cluster/base/rng.h"
#include "tests/worker_text_clean/text_test_files.h"
#include "worker/text/byte_stream.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CleanerTest : public TextFilesTest {
 protected:
  // "id=text" of what is kept; an error as "error: ...".
  std::vector<std::string> Clean(const std::vector<std::string>& paths, CleanOptions options = {}) {
    std::vector<std::string> kept;
    const auto report = CleanCorpus(
        paths, options,
        [&](const std::string& id, const std::string& text) {
          kept.push_back(id + "=" + text);
          return OkStatus();
        },
        nullptr);
    if (!report.ok()) {
      exit_code_ = ExitCode(report.status());
      return {"error: " + report.status().message()};
    }
    report_ = report.value();
    return kept;
  }
  Tally Dropped(DropReason reason) const { return report_.dropped[static_cast<size_t>(reason)]; }
  Tally Changed(TextChange change) const { return report_.changed[static_cast<size_t>(change)]; }

  CleanReport report_;
  int exit_code_ = 0;
};

std::string Sentence(int i) {
  std::string text;
  const CounterRng rng(6, RngUse::kTest, static_cast<uint64_t>(i));
  for (uint64_t word = 0; word < 60; ++word) {
    text += StrCat(word == 0 ? "" : " ", "word", rng.Below(100000, word));
  }
  return text;
}

// What reading does to bytes is a change like those after it.
TEST_F(CleanerTest, ByteOrderMarksAndLineEndsAreCounted) {
  std::string utf16("\xFF\xFE", 2);
  for (const char c : std::string("text\nfirst row\nsecond row\n")) utf16 += {c, '\0'};
  EXPECT_THAT(Clean({Write("a.csv", utf16)}), testing::SizeIs(2));
  EXPECT_EQ(Changed(TextChange::kEncoding).documents, 2);
  EXPECT_EQ(Changed(TextChange::kEncoding).characters, 9 + 10);
  EXPECT_THAT(Clean({Write("b.txt", "\xEF\xBB\xBFhello")}), testing::SizeIs(1));
  EXPECT_EQ(Changed(TextChange::kZeroWidth).documents, 1);
  EXPECT_EQ(Changed(TextChange::kZeroWidth).characters, 1);
  EXPECT_EQ(Changed(TextChange::kEncoding).documents, 0);
  EXPECT_THAT(Clean({Write("c.csv", "\xEF\xBB\xBFtext\nfirst row\n")}), testing::SizeIs(1));
  EXPECT_EQ(Changed(TextChange::kZeroWidth).documents, 0) << "the mark was no part of the row";
  EXPECT_THAT(Clean({Write("d.txt", "hello\r\nthere\r\n")}), testing::SizeIs(1));
  EXPECT_EQ(Changed(TextChange::kWhitespace).characters, 2);
  EXPECT_THAT(Clean({Write("e.txt", "hello\n")}), testing::SizeIs(1));
  EXPECT_EQ(Changed(TextChange::kWhitespace).documents, 0);
}

TEST_F(CleanerTest, EveryReasonIsCounted) {
  const std::string path =
      Write("c.jsonl",
            "{\"id\":\"a\",\"text\":\"" + Sentence(1) + "\"}\n" +                             //
                "{\"id\":\"same\",\"text\":\"" + Sentence(1) + " \"}\n" +                     //
                "{\"id\":\"near\",\"text\":\"" + Sentence(1).substr(0, 600) + ", end\"}\n" +  //
                "{\"id\":\"short\",\"text\":\"abc\"}\n" +                                     //
                "{\"id\":\"empty\",\"text\":\" \\n\"}\n" +                                    //
                "{\"id\":\"null\",\"text\":null}\n" +                                         //
                "{\"id\":\"symbols\",\"text\":\"#### ---- ab ####\"}\n" +                     //
                "{\"id\":\"latin\",\"text\":\"caf\xE9 au lait\"}\n" +                         //
                "{\"id\":\"cafe\",\"text\":\"cafe\\u0301 \\u200bau\\u00a0lait\\u0007\"}\n");
  EXPECT_THAT(Clean({path}), ElementsAre("a=" + Sentence(1), "cafe=caf\u00E9 au lait"));
  EXPECT_EQ(report_.input.documents, 9);
  EXPECT_EQ(report_.output.documents, 2);
  EXPECT_EQ(report_.output.characters, static_cast<int64_t>(Sentence(1).size()) + 12);
  EXPECT_EQ(Dropped(DropReason::kExactDuplicate).documents, 1);
  EXPECT_EQ(Dropped(DropReason::kNearDuplicate).documents, 1);
  EXPECT_EQ(Dropped(DropReason::kTooShort).documents, 1);
  EXPECT_EQ(Dropped(DropReason::kTooShort).characters, 3);
  EXPECT_EQ(Dropped(DropReason::kEmpty).documents, 2);
  EXPECT_EQ(Dropped(DropReason::kSymbols).documents, 1);
  EXPECT_EQ(Dropped(DropReason::kNotUtf8).documents, 1);
  EXPECT_EQ(Changed(TextChange::kNormalized).documents, 1);
  EXPECT_EQ(Changed(TextChange::kZeroWidth).characters, 1);
  EXPECT_EQ(Changed(TextChange::kControl).characters, 1);

  const auto json = nlohmann::json::parse(report_.ToJson());
  EXPECT_EQ(json["input"]["documents"], 9);
  EXPECT_EQ(json["dropped"]["symbols"]["documents"], 1);
  EXPECT_EQ(json["changed"]["zero_width"]["characters"], 1);
  int64_t documents = json["output"]["documents"];
  for (const auto& reason : json["dropped"]) documents += reason["documents"].get<int64_t>();
  EXPECT_EQ(documents, 9) << "kept and dropped are all";
}

TEST_F(CleanerTest, OptionsChangeWhatIsKept) {
  const std::string path =
      Write("c.jsonl",
            "{\"id\":1,\"text\":\"<b>Hello</b> World\"}\n"
            "{\"id\":2,\"text\":\"<b>Hello</b> World\"}\n{\"id\":3,\"text\":\"x\"}\n");
  CleanOptions options;
  options.html = HtmlMode::kAlways;
  options.lowercase = true;
  options.characters_min = 0;
  options.exact_duplicates = options.near_duplicates = false;
  EXPECT_THAT(Clean({path}, options), ElementsAre("1=hello world", "2=hello world", "3=x"));
  EXPECT_EQ(Changed(TextChange::kLowercase).characters, 4);
  options.characters_max = 10;
  EXPECT_THAT(Clean({path}, options), ElementsAre("3=x"));
  EXPECT_EQ(Dropped(DropReason::kTooLong).documents, 2);
  options.characters_max = 11;
  EXPECT_EQ(Clean({path}, options).size(), 3u);
  EXPECT_EQ(nlohmann::json::parse(report_.ToJson())["dropped"]["too_long"]["documents"], 0);
  const std::string page = Write("p.html", "<p>Hello &amp; World");
  options = {};
  EXPECT_THAT(Clean({page}, options), ElementsAre(page + "=Hello & World"));
  options.html = HtmlMode::kNever;
  EXPECT_THAT(Clean({page}, options), ElementsAre(page + "=<p>Hello &amp; World"));
  const std::string latin = Write("l.txt", "caf\xE9 au lait");
  options.encoding = "windows-1252";
  EXPECT_THAT(Clean({latin}, options), ElementsAre(latin + "=caf\u00E9 au lait"));
}

TEST_F(CleanerTest, ThreadsDoNotChangeTheResult) {
  std::string lines;
  for (int i = 0; i < 4000; ++i) {
    lines += "{\"id\":" + std::to_string(i) + ",\"text\":\"" + Sentence(i % 3500) + "\"}\n";
  }
  const std::string path = Write("c.jsonl", lines);
  CleanOptions options;
  options.threads = 1;
  const auto one = Clean({path}, options);
  const std::string report = report_.ToJson();
  EXPECT_EQ(one.size(), 3500u);
  for (const int threads : {2, 5}) {
    options.threads = threads;
    EXPECT_EQ(Clean({path}, options), one);
    EXPECT_EQ(report_.ToJson(), report);
  }
}

TEST_F(CleanerTest, NothingLeftIsOneClearErrorWithTheReasons) {
  const std::string empty = Write("empty.jsonl", "");
  EXPECT_THAT(Clean({empty}), ElementsAre("error: " + empty + ": no documents"));
  EXPECT_EQ(exit_code_, 3);
  const std::string latin = Write("l.txt", "caf\xE9 au lait");
  EXPECT_THAT(Clean({latin}),
              ElementsAre("error: " + latin + ": none of 1 documents is left (not_utf8 1)"));
  EXPECT_EQ(exit_code_, 3);
  const std::string blank = Write("b.txt", "  \n");
  EXPECT_THAT(Clean({latin, blank}),
              ElementsAre("error: " + latin +
                          " and 1 more: none of 2 documents is left (not_utf8 1, empty 1)"));
}

TEST_F(CleanerTest, BadOptionsAndErrorsOfTheSinkComeThrough) {
  const std::string path = Write("a.txt", "some text");
  CleanOptions options;
  options.encoding = "nonsense";
  EXPECT_THAT(Clean({path}, options)[0], HasSubstr("--encoding nonsense: unknown"));
  EXPECT_EQ(exit_code_, 2);
  options = {};
  options.symbol_share_max = 2;
  EXPECT_THAT(Clean({path}, options)[0], HasSubstr("--max-symbol-share 2: expected 0 to 1"));
  const auto report = CleanCorpus(
      {path}, {},
      [](const std::string&, const std::string&) { return StorageError("disk is full"); }, nullptr);
  EXPECT_EQ(report.status().message(), "disk is full");
  // An error in the middle of a corpus ends it, whatever was read ahead.
  std::string lines;
  for (int i = 0; i < 3000; ++i) lines += "{\"text\":\"" + Sentence(i) + "\"}\n";
  const std::string broken = Write("broken.jsonl", lines + "{broken\n" + lines);
  EXPECT_THAT(Clean({broken})[0], HasSubstr("broken.jsonl:3001: not a JSON object"));
  EXPECT_EQ(exit_code_, 3);
}

TEST(SymbolShareTest, CountsWhatIsNeitherWordNorSpace) {
  EXPECT_DOUBLE_EQ(SymbolShare(""), 0.0);
  EXPECT_DOUBLE_EQ(SymbolShare("abc 123"), 0.0);
  EXPECT_DOUBLE_EQ(SymbolShare("a--- "), 0.75);
  EXPECT_DOUBLE_EQ(SymbolShare("\u4E2D\u6587\uFF0C\u3002"), 0.5);
}

// Runs of four words, with how often each occurs.
std::map<std::string, int> FourGrams(const std::string& text) {
  std::vector<std::string> words(1);
  for (const char c : text) {
    const bool word = (c & 0x80) != 0 || std::isalnum(static_cast<unsigned char>(c)) != 0;
    if (word) words.back().push_back(c);
    if (!word && !words.back().empty()) words.emplace_back();
  }
  std::map<std::string, int> grams;
  for (size_t i = 0; i + 4 <= words.size(); ++i) {
    ++grams[words[i] + " " + words[i + 1] + " " + words[i + 2] + " " + words[i + 3]];
  }
  return grams;
}

// {precision, recall} of `found` against `expected`.
std::pair<double, double> Score(const std::string& found, const std::string& expected) {
  const auto ours = FourGrams(found);
  const auto theirs = FourGrams(expected);
  double common = 0;
  double ours_all = 0;
  double theirs_all = 0;
  for (const auto& [gram, count] : ours) {
    ours_all += count;
    const auto other = theirs.find(gram);
    if (other != theirs.end()) common += std::min(count, other->second);
  }
  for (const auto& [gram, count] : theirs) theirs_all += count;
  return {ours_all > 0 ? common / ours_all : 0, theirs_all > 0 ? common / theirs_all : 0};
}

std::string ReadTarEntry(const std::string& tar, const std::string& suffix) {
  auto file = OpenFileStream(tar, nullptr).value();
  auto plain = OpenDecompressed(file.get(), CompressionOf(tar), tar).value();
  auto reader = OpenTar(plain.get(), tar).value();
  std::string name;
  while (reader->Next(&name).value()) {
    if (!name.ends_with(suffix)) continue;
    std::string content;
    char block[1 << 14];
    while (const size_t count = reader->entry()->Read(block, sizeof(block)).value()) {
      content.append(block, count);
    }
    return content;
  }
  return "";
}

// Real pages with the text that belongs in them, scored as scrapinghub's
// article-extraction-benchmark does. Measured: precision 0.857, recall 0.984.
TEST_F(CleanerTest, RealPagesGiveTheirArticles) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  const std::string tar = StrCat(shared, "/data/html_article_extraction.tar.zst");
  ASSERT_TRUE(std::filesystem::exists(tar)) << tar;
  const auto expected = nlohmann::json::parse(ReadTarEntry(tar, "ground-truth.json"));
  CleanOptions options;
  options.near_duplicates = options.exact_duplicates = false;
  options.characters_min = 0;
  double precision = 0;
  double recall = 0;
  int pages = 0;
  const auto report = CleanCorpus(
      {tar}, options,
      [&](const std::string& id, const std::string& text) {
        const auto article = expected.find(id.substr(id.rfind('/') + 1, 64));
        if (article == expected.end()) return OkStatus();
        const auto score = Score(text, (*article)["articleBody"]);
        precision += score.first;
        recall += score.second;
        ++pages;
        return OkStatus();
      },
      nullptr);
  ASSERT_TRUE(report.ok()) << report.status().message();
  ASSERT_EQ(pages, 181);
  EXPECT_GT(precision / pages, 0.84);
  EXPECT_GT(recall / pages, 0.97);
}

}  // namespace
}  // namespace trireme
