#include "worker/text/text_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cluster/base/rng.h"
#include "tests/worker_text_clean/text_test_files.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

using TextSourceTest = TextFilesTest;

TEST_F(TextSourceTest, ADocumentIsAFileALineOrARow) {
  EXPECT_THAT(ReadTexts({Write("a.txt", "one\ntwo\n")}), ElementsAre("one\ntwo\n"));
  EXPECT_THAT(ReadTexts({Write("a.md", "# one")}), ElementsAre("# one"));
  EXPECT_THAT(ReadTexts({Write("a.jsonl", "{\"text\": \"x\\ny\"}\n\n{\"text\":\"z\"}")}),
              ElementsAre("x\ny", "z"));
  EXPECT_THAT(ReadTexts({Write("a.csv", "id,text\n1,\"a, \"\"b\"\"\r\nc\"\r\n2,d\r\n")}),
              ElementsAre("a, \"b\"\r\nc", "d"));
  EXPECT_THAT(ReadTexts({Write("a.tsv", "text\tid\n\"quoted\t1\nplain\t2\n")}),
              ElementsAre("\"quoted", "plain"));
  EXPECT_THAT(ReadTexts({Write("b.csv", "a,b\nc,d\n")}, {.field = "2"}), ElementsAre("b", "d"));
  EXPECT_THAT(ReadTexts({Write("b.tsv", "a\tb\n")}, {.field = "1"}), ElementsAre("a"));
}

TEST_F(TextSourceTest, HtmlIsMarkedAndIdsNameThePlace) {
  auto documents =
      ReadDocuments({Write("p.HTML", "<p>x"), Write("l.jsonl",
                                                    "{\"text\":\"a\"}\n{\"text\":\"b\",\"id\":7}\n"
                                                    "{\"id\":\"seven\",\"text\":\"c\"}\n")})
          .value();
  ASSERT_EQ(documents.size(), 4u);
  EXPECT_TRUE(documents[0].html);
  EXPECT_EQ(documents[0].id, Path("p.HTML"));
  EXPECT_FALSE(documents[1].html);
  EXPECT_EQ(documents[1].id, Path("l.jsonl") + ":1");
  EXPECT_EQ(documents[2].id, "7");
  EXPECT_EQ(documents[2].where, Path("l.jsonl") + ":2");
  EXPECT_EQ(documents[3].id, "seven");
}

TEST_F(TextSourceTest, ReadsEveryCompression) {
  for (const char* compression : {".gz", ".zst", ".bz2", ".xz"}) {
    const std::string big(300000, 'x');
    const std::string path =
        Write(std::string("a.txt") + compression, Compressed(big, compression));
    EXPECT_THAT(ReadTexts({path}), ElementsAre(big)) << compression;
    const std::string empty =
        Write(std::string("empty.jsonl") + compression, Compressed("", compression));
    EXPECT_THAT(ReadTexts({empty}), ElementsAre()) << compression;
  }
  // Several members one after the other, as parallel compressors write them.
  EXPECT_THAT(ReadTexts({Write("m.txt.gz", Compressed("a", ".gz") + Compressed("b", ".gz"))}),
              ElementsAre("ab"));
}

TEST_F(TextSourceTest, ReadsTarsOfPlainAndCompressedFiles) {
  const std::vector<std::pair<std::string, std::string>> entries = {
      {"d/z.txt", "first"},
      {"d/a.jsonl.zst", Compressed("{\"text\": \"second\"}\n", ".zst")},
      {"d/image.png", "skipped"},
      {"d/p.html.gz", Compressed("<p>third", ".gz")},
      {"d/table.tsv", "no\tsuch column\n"}};
  for (const char* compression : {"", ".gz", ".zst", ".bz2"}) {
    const std::string path = Write(std::string("c.tar") + compression, Tar(entries, compression));
    auto source = TextSource::Open({path}, {}).value();
    std::vector<std::string> seen;
    Document document;
    while (source->Next(&document).value()) seen.push_back(document.id + "=" + document.text);
    EXPECT_THAT(seen, ElementsAre(path + ":d/z.txt=first", path + ":d/a.jsonl.zst:1=second",
                                  path + ":d/p.html.gz=<p>third"));
    EXPECT_EQ(source->files_skipped(), 2);
  }
  EXPECT_THAT(ReadTexts({Write("c.tgz", Tar({{"a.txt", "x"}}, ".gz"))}), ElementsAre("x"));
}

TEST_F(TextSourceTest, FoldersAndGlobsComeSorted) {
  Write("c/b.txt", "b");
  Write("c/a/z.txt", "z");
  Write("c/B.txt", "B");
  Write("c/.hidden.txt", "hidden");
  Write("c/.git/x.txt", "hidden");
  Write("c/picture.jpg", "skipped");
  EXPECT_THAT(ReadTexts({Path("c")}), ElementsAre("B", "z", "b"));
  EXPECT_THAT(ReadTexts({Path("c/*.txt")}), ElementsAre("B", "b"));
  EXPECT_THAT(ReadTexts({Path("c/b.txt"), Path("c/B.txt")}), ElementsAre("b", "B"));
}

TEST_F(TextSourceTest, AFolderAndATarOfItLeaveOutTheSame) {
  const std::vector<std::pair<std::string, std::string>> files = {{"d/a.txt", "read"},
                                                                  {"d/.b.txt", "hidden"},
                                                                  {"d/.git/c.txt", "hidden"},
                                                                  {"d/e/.f/g.txt", "hidden"},
                                                                  {"d/picture.jpg", "skipped"}};
  for (const auto& [name, text] : files) Write(name, text);
  const auto read = [](const std::string& path) {
    auto source = TextSource::Open({path}, {}).value();
    std::vector<std::string> texts;
    Document document;
    while (source->Next(&document).value()) texts.push_back(document.text);
    EXPECT_EQ(source->files_skipped(), 4) << path;
    return texts;
  };
  EXPECT_THAT(read(Path("d")), ElementsAre("read"));
  EXPECT_THAT(read(Write("d.tar", Tar(files, ""))), ElementsAre("read"));
  EXPECT_THAT(read(Write("dot.tar", Tar({{"./a.txt", "read"},
                                         {"./.b.txt", "hidden"},
                                         {"./.git/c.txt", "hidden"},
                                         {"./.git/../.h/i.txt", "hidden"},
                                         {"./j.jpg", "skipped"}},
                                        ""))),
              ElementsAre("read"));
}

TEST_F(TextSourceTest, ByteOrderMarksAreUnderstood) {
  EXPECT_THAT(ReadTexts({Write("a.txt", "\xEF\xBB\xBFhi")}), ElementsAre("hi"));
  EXPECT_THAT(ReadTexts({Write("b.txt", std::string("\xFF\xFEh\0\xE9\0\x3D\xD8\0\xDE", 10))}),
              ElementsAre("h\xC3\xA9\xF0\x9F\x98\x80"));
  EXPECT_THAT(ReadTexts({Write("c.txt", std::string("\xFE\xFF\0h\x4E\x2D", 6))}),
              ElementsAre("h\xE4\xB8\xAD"));
  // A lone surrogate and half a unit.
  EXPECT_THAT(ReadTexts({Write("d.txt", std::string("\xFE\xFF\xD8\x3D\0a\0", 7))}),
              ElementsAre("\xEF\xBF\xBD"
                          "a\xEF\xBF\xBD"));
  std::string utf16("\xFF\xFE", 2);
  for (const char c : std::string("text,n\nx,1\n")) utf16 += {c, '\0'};
  EXPECT_THAT(ReadTexts({Write("e.csv", utf16)}), ElementsAre("x"));
}

TEST_F(TextSourceTest, LinesThatAreNotUtf8KeepTheirBytes) {
  EXPECT_THAT(ReadTexts({Write("a.jsonl", "{\"text\": \"caf\xE9 \xC3\xA9\"}\n")}),
              ElementsAre("caf\xE9 \xC3\xA9"));
}

TEST_F(TextSourceTest, ErrorsNameFileAndLine) {
  EXPECT_THAT(ReadError({Path("none.txt")}), HasSubstr("none.txt: no such file or folder"));
  EXPECT_THAT(ReadError({Path("*.none")}), HasSubstr("*.none: matches no file of text"));
  EXPECT_THAT(ReadError({Write("a.pdf", "x")}),
              HasSubstr("a.pdf: not a kind of text that is read"));
  std::filesystem::create_directories(Path("empty"));
  EXPECT_THAT(ReadError({Path("empty")}), HasSubstr("empty: holds no text"));
  EXPECT_THAT(ReadError({Write("b.jsonl", "{\"text\":\"a\"}\n{\"text\":\n")}),
              HasSubstr("b.jsonl:2: not a JSON object"));
  EXPECT_THAT(ReadError({Write("c.jsonl", "{\"body\":1,\"n\":2}\n")}),
              HasSubstr("c.jsonl:1: no field 'text' (fields: body, n)"));
  EXPECT_THAT(ReadError({Write("d.jsonl", "{\"text\":1}\n")}),
              HasSubstr("d.jsonl:1: field 'text' is not a string"));
  EXPECT_THAT(ReadError({Write("e.jsonl", "[1]\n")}), HasSubstr("e.jsonl:1: not a JSON object"));
  EXPECT_THAT(ReadError({Write("f.csv", "a,b\n1,2\n")}),
              HasSubstr("f.csv:1: no column 'text' in the header (a, b)"));
  EXPECT_THAT(ReadError({Write("g.csv", "a,text\n1\n")}),
              HasSubstr("g.csv:2: a row of 1 columns, expected at least 2"));
  EXPECT_THAT(ReadError({Write("h.csv", "text\nok\n\"open\n")}),
              HasSubstr("h.csv:3: a quote that is opened and never closed"));
  EXPECT_THAT(ReadError({Write("i.txt.gz", "plain")}),
              HasSubstr("i.txt.gz: does not hold .gz data as its name says"));
  EXPECT_THAT(ReadError({Write("j.txt", std::string(2000, 'x'))}, {.document_bytes_max = 1000}),
              HasSubstr("j.txt: a document larger than"));
  EXPECT_THAT(ReadError({Write("k.jsonl", std::string(2000, ' '))}, {.document_bytes_max = 1000}),
              HasSubstr("k.jsonl:1: a document larger than"));
}

TEST_F(TextSourceTest, TruncatedFilesAreErrorsNotShortTexts) {
  std::string noise;
  const CounterRng rng(3, RngUse::kTest, 1);
  for (uint64_t i = 0; i < 100000; ++i) noise.push_back(static_cast<char>('a' + rng.Below(26, i)));
  for (const char* compression : {".gz", ".zst", ".bz2", ".xz"}) {
    const std::string whole = Compressed(noise, compression);
    const std::string path =
        Write(std::string("t.txt") + compression, whole.substr(0, whole.size() / 2));
    EXPECT_THAT(ReadError({path}), StartsWith(path + ": ")) << compression;
  }
  const std::string tar = Tar({{"a.txt", noise}}, "");
  EXPECT_THAT(ReadError({Write("t.tar", tar.substr(0, 50000))}), HasSubstr("t.tar"));
  EXPECT_THAT(ReadError({Write("garbage.tar", noise)}), HasSubstr("garbage.tar"));
}

// Random mutations of valid inputs: every one is read or refused with exit code 3; none crashes.
TEST_F(TextSourceTest, MutatedFilesNeverCrash) {
  const std::string jsonl =
      "{\"id\": 1, \"text\": \"caf\xC3\xA9 \\u00e9\\ud83d\\ude00\"}\n{\"text\": \"two\"}\n";
  const std::string csv = "id,text\n1,\"a \"\"b\"\"\nc\"\n2,plain\n";
  const std::vector<std::pair<std::string, std::string>> files = {
      {"f.jsonl", jsonl},
      {"f.csv", csv},
      {"f.tsv", "text\tid\na\t1\n"},
      {"f.txt", std::string("\xFF\xFEh\0i\0\x3D\xD8\0\xDE", 10)},
      {"f.jsonl.gz", Compressed(jsonl, ".gz")},
      {"f.jsonl.zst", Compressed(jsonl, ".zst")},
      {"f.csv.bz2", Compressed(csv, ".bz2")},
      {"f.tar", Tar({{"a.jsonl", jsonl}, {"b.csv.gz", Compressed(csv, ".gz")}}, "")}};
  const CounterRng rng(2, RngUse::kTest, 9);
  uint64_t draw = 0;
  int read = 0;
  for (int round = 0; round < 1500; ++round) {
    const auto& [name, good] = files[rng.Below(files.size(), draw++)];
    std::string bad = good;
    const uint64_t changes = 1 + rng.Below(4, draw++);
    for (uint64_t i = 0; i < changes && !bad.empty(); ++i) {
      const uint64_t at = rng.Below(std::min<uint64_t>(bad.size(), 1200), draw++);
      switch (rng.Below(4, draw++)) {
        case 0:
          bad[at] = static_cast<char>(rng.Below(256, draw++));
          break;
        case 1:
          bad[at] = "\"\\{}[]:,\n\t\xFF"[rng.Below(11, draw++)];
          break;
        case 2:
          bad.erase(at, 1 + rng.Below(8, draw++));
          break;
        default:
          bad.insert(at, bad.substr(at / 2, rng.Below(32, draw++)));
      }
    }
    auto documents = ReadDocuments({Write(name, bad)}, {.document_bytes_max = 1 << 20});
    if (documents.ok()) {
      ++read;
    } else {
      EXPECT_EQ(ExitCode(documents.status()), 3) << documents.status().message();
    }
  }
  EXPECT_GT(read, 200);
}

}  // namespace
}  // namespace trireme
