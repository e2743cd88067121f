#include "worker/text/packer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/token_file.h"
#include "tests/worker_text_clean/text_test_files.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Every byte is a token; 256 ends a text.
class ByteTokenizer : public Tokenizer {
 public:
  void Encode(std::string_view text, std::vector<int32_t>* ids) const override {
    for (const char c : text) ids->push_back(static_cast<unsigned char>(c));
  }
  void EncodeWithSpecials(std::string_view text, std::vector<int32_t>* ids) const override {
    Encode(text, ids);
  }
  std::string Decode(std::span<const int32_t> ids) const override {
    return std::string(ids.begin(), ids.end());
  }
  std::string TokenBytes(int32_t id) const override { return {static_cast<char>(id)}; }
  bool IsToken(int32_t id) const override { return id >= 0 && id < vocab_size(); }
  int64_t vocab_size() const override { return 257; }
  std::optional<int32_t> end_of_text() const override { return end_; }
  std::optional<int32_t> bos() const override { return std::nullopt; }
  bool adds_bos() const override { return false; }
  bool adds_prefix_space() const override { return false; }
  std::string hash() const override { return "byte-hash"; }
  std::string Describe() const override { return "bytes"; }
  Status Save(const std::string& path) const override {
    if (!savable_) return NotBuiltError("cannot be written as tokenizer.json");
    std::ofstream(path) << "{}";
    return OkStatus();
  }

  std::optional<int32_t> end_ = 256;
  bool savable_ = true;
};

class PackerTest : public TextFilesTest {
 protected:
  Result<PackReport> Pack(const std::vector<std::string>& paths, PackOptions options) {
    if (options.out.empty()) options.out = Path("out/corpus");
    return PackCorpus(paths, tokenizer_, "bytes.model", options, nullptr);
  }
  std::string PackError(const std::vector<std::string>& paths, PackOptions options, int exit_code) {
    const auto report = Pack(paths, std::move(options));
    EXPECT_FALSE(report.ok());
    EXPECT_EQ(ExitCode(report.status()), exit_code) << report.status().message();
    // Nothing half-written: no file of any name.
    if (std::filesystem::exists(Path("out"))) {
      EXPECT_TRUE(std::filesystem::is_empty(Path("out")));
    }
    return report.status().message();
  }
  static std::vector<int32_t> Ids(const std::string& name) {
    const auto file = TokenFile::Open(name).value();
    std::vector<int32_t> ids(static_cast<size_t>(file->tokens()));
    file->Read(0, file->tokens(), ids.data());
    return ids;
  }

  ByteTokenizer tokenizer_;
};

TEST_F(PackerTest, EveryDocumentEndsWithEndOfText) {
  const std::string path =
      Write("c.jsonl", "{\"text\":\"ab\"}\n{\"text\":\"\"}\n{\"text\":\"c\"}\n");
  const auto report = Pack({path, Write("d.html", "<p>")}, {}).value();
  EXPECT_EQ(report.documents, 3);
  EXPECT_EQ(report.documents_empty, 1);
  EXPECT_EQ(report.tokens, 9);
  EXPECT_EQ(report.text_bytes, 6);
  EXPECT_DOUBLE_EQ(report.bytes_per_token(), 1.0);
  EXPECT_THAT(Ids(Path("out/corpus")), ElementsAre('a', 'b', 256, 'c', 256, '<', 'p', '>', 256));
  const auto file = TokenFile::Open(Path("out/corpus")).value();
  EXPECT_EQ(file->documents(), 3);
  EXPECT_EQ(file->info().end_of_text, 256);
  EXPECT_EQ(file->info().vocab_size, 257);
  EXPECT_EQ(file->info().tokenizer_hash, "byte-hash");
  EXPECT_EQ(file->info().tokenizer_path, Path("out/corpus.tokenizer.json"));
  EXPECT_TRUE(std::filesystem::exists(file->info().tokenizer_path));
}

TEST_F(PackerTest, ValidationIsTheLastFractionOfTheTokens) {
  const std::string path = Write("c.jsonl", "{\"text\":\"abcde\"}\n{\"text\":\"fgh\"}\n");
  const auto report = Pack({path}, {.validation = 0.21}).value();
  EXPECT_THAT(report.names, ElementsAre(Path("out/corpus_train"), Path("out/corpus_validation")));
  EXPECT_THAT(Ids(Path("out/corpus_train")), ElementsAre('a', 'b', 'c', 'd', 'e', 256, 'f', 'g'));
  EXPECT_THAT(Ids(Path("out/corpus_validation")), ElementsAre('h', 256));
  const auto file = TokenFile::Open(Path("out/corpus_validation")).value();
  EXPECT_EQ(file->info().tokenizer_path, Path("out/corpus.tokenizer.json"));
  // Never nothing, never all.
  EXPECT_EQ(Pack({path}, {.validation = 1e-9})->validation_tokens, 1);
  EXPECT_EQ(Pack({path}, {.validation = 0.9999})->validation_tokens, 9);
}

TEST_F(PackerTest, ThreadsDoNotChangeTheBytes) {
  std::string lines;
  for (int i = 0; i < 20000; ++i) lines += StrCat("{\"text\":\"", i * 7919, " some text\"}\n");
  const std::string path = Write("c.jsonl", lines);
  ASSERT_TRUE(Pack({path}, {.out = Path("a"), .threads = 1}).ok());
  ASSERT_TRUE(Pack({path}, {.out = Path("b"), .threads = 4}).ok());
  EXPECT_EQ(ReadAll(Path("a.bin")), ReadAll(Path("b.bin")));
  EXPECT_EQ(ReadAll(Path("a.idx")), ReadAll(Path("b.idx")));
}

TEST_F(PackerTest, ATokenizerThatCannotBeSavedIsNamedByItsPath) {
  tokenizer_.savable_ = false;
  const auto report = Pack({Write("a.txt", "x")}, {}).value();
  EXPECT_EQ(report.tokenizer_copy, "");
  const auto file = TokenFile::Open(Path("out/corpus")).value();
  EXPECT_EQ(file->info().tokenizer_path,
            (std::filesystem::current_path() / "bytes.model").string());
}

TEST_F(PackerTest, BadInputIsOneClearLineAndLeavesNothing) {
  const std::string good = Write("a.txt", "x");
  EXPECT_THAT(PackError({Write("l.txt", "caf\xE9")}, {}, 3),
              HasSubstr("l.txt: not UTF-8 at byte 3 of the document; 'trireme clean' converts"));
  EXPECT_THAT(PackError({Write("e.jsonl", "")}, {}, 3), HasSubstr("e.jsonl: no documents with"));
  EXPECT_THAT(PackError({Path("none.txt")}, {}, 3), HasSubstr("no such file or folder"));
  EXPECT_THAT(PackError({good}, {.validation = 1.0}, 2), HasSubstr("--validation 1: expected"));
  EXPECT_THAT(PackError({good}, {.validation = -0.1}, 2), HasSubstr("expected a share from 0"));
  EXPECT_THAT(PackError({good}, {.out = Path("out/")}, 2), HasSubstr("expected a name"));
  EXPECT_THAT(PackError({good}, {.end_of_text = 300}, 2), HasSubstr("expected 0 to 256"));
  EXPECT_THAT(PackError({good}, {.threads = -1}, 2), HasSubstr("--threads -1"));
  tokenizer_.end_ = std::nullopt;
  EXPECT_THAT(PackError({good}, {}, 2), HasSubstr("bytes.model: names no end-of-text token"));
  EXPECT_EQ(Pack({good}, {.end_of_text = 0})->tokens, 2);
}

}  // namespace
}  // namespace trireme
