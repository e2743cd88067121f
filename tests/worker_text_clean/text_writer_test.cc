#include "worker/text/text_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>

#include "cluster/base/rng.h"
#include "tests/worker_text_clean/text_test_files.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;
using TextWriterTest = TextFilesTest;

TEST_F(TextWriterTest, WhatIsWrittenIsReadBack) {
  const std::string text = "line\n\ttab \"quoted\" \\ back \x01 caf\u00E9 \U0001F600";
  for (const char* suffix : {"", ".zst", ".gz", ".bz2", ".xz"}) {
    const std::string path = Path(std::string("out.jsonl") + suffix);
    auto writer = TextWriter::Create(path).value();
    ASSERT_TRUE(writer->Write("first", text).ok());
    ASSERT_TRUE(writer->Write("bad \xFF id", std::string(100000, 'y')).ok());
    EXPECT_FALSE(std::filesystem::exists(path)) << "only when it is whole";
    ASSERT_TRUE(writer->Finish().ok());
    const auto documents = ReadDocuments({path}).value();
    ASSERT_EQ(documents.size(), 2u) << suffix;
    EXPECT_EQ(documents[0].id, "first");
    EXPECT_EQ(documents[0].text, text);
    EXPECT_EQ(documents[1].id, "bad \uFFFD id");
  }
  EXPECT_THAT(ReadAll(Path("out.jsonl")),
              HasSubstr("{\"id\": \"first\", \"text\": \"line\\n\\ttab"));
}

TEST_F(TextWriterTest, TheSameDocumentsGiveTheSameBytes) {
  for (const char* suffix : {".zst", ".gz"}) {
    std::string bytes[2];
    for (std::string& out : bytes) {
      const std::string path = Path(std::string("out.jsonl") + suffix);
      auto writer = TextWriter::Create(path).value();
      ASSERT_TRUE(writer->Write("a", "text").ok());
      ASSERT_TRUE(writer->Finish().ok());
      out = ReadAll(path);
    }
    EXPECT_EQ(bytes[0], bytes[1]);
  }
}

TEST_F(TextWriterTest, NamesDecideAndOthersAreRefused) {
  const auto writer = TextWriter::Create(Path("out.txt"));
  EXPECT_EQ(ExitCode(writer.status()), 2);
  EXPECT_THAT(writer.status().message(), HasSubstr("expected a name that ends in .jsonl"));
  EXPECT_EQ(StemOfText("a.b/clean.jsonl.zst"), "a.b/clean");
  EXPECT_EQ(StemOfText("clean.jsonl"), "clean");
}

TEST_F(TextWriterTest, GivenUpOrFullDiskLeavesNothingBehind) {
  const CounterRng rng(8, RngUse::kTest, 4);
  std::string noise;
  for (uint64_t i = 0; i < (4 << 20); ++i) {
    noise.push_back(static_cast<char>('!' + rng.Bits32(i) % 90));
  }
  for (const char* suffix : {"", ".zst", ".gz"}) {
    auto writer = TextWriter::Create(Path(std::string("out.jsonl") + suffix)).value();
    rlimit old_limit;
    ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
    const rlimit small{.rlim_cur = 256 << 10, .rlim_max = old_limit.rlim_max};
    const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    Status status = writer->Write("a", noise);
    if (status.ok()) status = writer->Finish();
    setrlimit(RLIMIT_FSIZE, &old_limit);
    std::signal(SIGXFSZ, old_handler);
    EXPECT_EQ(ExitCode(status), 4) << suffix;
    EXPECT_THAT(status.message(), HasSubstr("cannot be written: ")) << suffix;
    writer.reset();
    EXPECT_TRUE(std::filesystem::is_empty(folder_)) << suffix;
  }
}

}  // namespace
}  // namespace trireme
