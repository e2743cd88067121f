#include "storage/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <sstream>

#include "cluster/base/rng.h"
#include "storage/token_file_writer.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class TokenFileTest : public ::testing::Test {
 protected:
  TokenFileTest() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::temp_directory_path() / StrCat("trireme_tokens_", ::getpid(), "_", test->name());
    fs::create_directories(folder_);
  }
  ~TokenFileTest() override { fs::remove_all(folder_); }

  std::string Path(const std::string& name) const { return (folder_ / name).string(); }
  static std::string ReadAll(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  static void WriteAll(const std::string& path, const std::string& bytes) {
    // A new file each time: cutting an old one makes some file systems write it out at once.
    fs::remove(path);
    std::ofstream(path, std::ios::binary) << bytes;
  }
  // Three documents: 5 6 7 | 8 | 9 10.
  void WriteThree(const std::string& name, int64_t vocab_size) const {
    auto writer = TokenFileWriter::Create(Path(name), {.vocab_size = vocab_size}).value();
    ASSERT_TRUE(writer->AddDocument(std::vector<int32_t>{5, 6, 7}).ok());
    ASSERT_TRUE(writer->AddDocument(std::vector<int32_t>{8}).ok());
    ASSERT_TRUE(writer->AddDocument(std::vector<int32_t>{9, 10}).ok());
    const Status status = writer->Finish();
    ASSERT_TRUE(status.ok()) << status.message();
  }
  static std::vector<int32_t> ReadIds(const TokenFile& file) {
    std::vector<int32_t> ids(static_cast<size_t>(file.tokens()));
    file.Read(0, file.tokens(), ids.data());
    return ids;
  }
  std::string ErrorOf(const std::string& name) const {
    auto file = TokenFile::Open(Path(name));
    EXPECT_FALSE(file.ok());
    if (file.ok()) return "";
    EXPECT_EQ(ExitCode(file.status()), 3) << file.status().message();
    EXPECT_EQ(file.status().message().find('\n'), std::string::npos);
    return file.status().message();
  }

  fs::path folder_;
};

template <typename T>
std::string Packed(std::initializer_list<T> values) {
  std::string bytes;
  for (T value : values) bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
  return bytes;
}

TEST_F(TokenFileTest, WritesMegatronsBytes) {
  WriteThree("three", 100);
  EXPECT_EQ(ReadAll(Path("three.bin")), Packed<uint16_t>({5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(ReadAll(Path("three.idx")),
            std::string("MMIDIDX\0\0", 9) + Packed<uint64_t>({1}) + Packed<uint8_t>({8}) +
                Packed<uint64_t>({3, 4}) + Packed<int32_t>({3, 1, 2}) + Packed<int64_t>({0, 6, 8}) +
                Packed<int64_t>({0, 1, 2, 3}));
  const std::string json = ReadAll(Path("three.json"));
  EXPECT_THAT(json, HasSubstr("\"documents\": 3"));
  EXPECT_THAT(json, HasSubstr("\"tokens\": 6"));
  EXPECT_THAT(json, HasSubstr("\"vocab_size\": 100"));
}

TEST_F(TokenFileTest, ReadsOneStreamUnderAnyOfItsNames) {
  WriteThree("three", 70000);
  for (const char* name : {"three", "three.bin", "three.idx"}) {
    auto file = TokenFile::Open(Path(name)).value();
    EXPECT_EQ(file->dtype(), TokenDtype::kInt32);
    EXPECT_EQ(file->documents(), 3);
    EXPECT_THAT(ReadIds(*file), ElementsAre(5, 6, 7, 8, 9, 10));
    EXPECT_EQ(file->document_begin(1), 3);
    EXPECT_EQ(file->document_begin(3), 6);
    std::vector<int64_t> documents;
    for (int64_t i = 0; i < 6; ++i) documents.push_back(file->DocumentAt(i));
    EXPECT_THAT(documents, ElementsAre(0, 0, 0, 1, 2, 2));
    int32_t middle[2];
    file->Read(2, 2, middle);
    EXPECT_THAT(middle, ElementsAre(7, 8));
  }
}

TEST_F(TokenFileTest, DtypeChangesWhereMegatronChangesIt) {
  EXPECT_EQ(TokenDtypeFor(65499), TokenDtype::kUint16);
  EXPECT_EQ(TokenDtypeFor(65500), TokenDtype::kInt32);
}

TEST_F(TokenFileTest, ReadsDocumentsOfSeveralSequencesAndOtherDtypes) {
  // Two documents; the first has two sequences (2 + 1 tokens), the second one (1 token).
  WriteAll(Path("old.bin"), Packed<int64_t>({1, 70000, 3, 4}));
  WriteAll(Path("old.idx"), std::string("MMIDIDX\0\0", 9) + Packed<uint64_t>({1}) +
                                Packed<uint8_t>({5}) + Packed<uint64_t>({3, 3}) +
                                Packed<int32_t>({2, 1, 1}) + Packed<int64_t>({0, 16, 24}) +
                                Packed<int64_t>({0, 2, 3}));
  auto file = TokenFile::Open(Path("old")).value();
  EXPECT_THAT(ReadIds(*file), ElementsAre(1, 70000, 3, 4));
  EXPECT_EQ(file->documents(), 2);
  EXPECT_EQ(file->document_begin(1), 3);
  EXPECT_EQ(file->info().vocab_size, 0);
}

TEST_F(TokenFileTest, ReadsLlmCShards) {
  std::string header(1024, '\0');
  const int32_t fields[3] = {20240520, 1, 5};
  std::memcpy(header.data(), fields, sizeof(fields));
  WriteAll(Path("shard.bin"), header + Packed<uint16_t>({50256, 11, 12, 50256, 13}));
  auto file = TokenFile::Open(Path("shard.bin")).value();
  EXPECT_THAT(ReadIds(*file), ElementsAre(50256, 11, 12, 50256, 13));
  EXPECT_EQ(file->documents(), 2);
  EXPECT_EQ(file->document_begin(1), 3);
  EXPECT_EQ(file->document_begin(2), 5);

  WriteAll(Path("short.bin"), header + Packed<uint16_t>({50256, 11}));
  EXPECT_THAT(ErrorOf("short.bin"), HasSubstr("short.bin: holds 1028 bytes, expected 1034 (5 tok"));
  header[4] = 9;
  WriteAll(Path("version.bin"), header);
  EXPECT_THAT(ErrorOf("version.bin"), HasSubstr("version 9, expected 1"));
  header[0] = 1;
  WriteAll(Path("magic.bin"), header);
  EXPECT_THAT(ErrorOf("magic.bin"), HasSubstr("does not begin with the magic of an llm.c shard"));
}

TEST_F(TokenFileTest, SplitGivesTheLastTokensToValidationAndCutsADocument) {
  auto writer = TokenFileWriter::Create(Path("all"), {.vocab_size = 100}).value();
  ASSERT_TRUE(writer->AddDocument(std::vector<int32_t>{1, 2, 3, 4}).ok());
  ASSERT_TRUE(writer->AddDocument(std::vector<int32_t>{5, 6, 7, 8}).ok());
  ASSERT_TRUE(writer->AddDocument(std::vector<int32_t>{9}).ok());
  const Status status = writer->FinishSplit(Path("train"), Path("validation"), 3);
  ASSERT_TRUE(status.ok()) << status.message();
  auto train = TokenFile::Open(Path("train")).value();
  auto validation = TokenFile::Open(Path("validation")).value();
  EXPECT_THAT(ReadIds(*train), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(train->documents(), 2);
  EXPECT_THAT(ReadIds(*validation), ElementsAre(7, 8, 9));
  EXPECT_EQ(validation->documents(), 2);
  EXPECT_EQ(validation->document_begin(1), 2);
  writer.reset();
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 6) << "nothing else is left";
}

TEST_F(TokenFileTest, InfoComesBackWithItsPathResolved) {
  const TokenFileInfo info{.tokenizer_hash = "abc",
                           .tokenizer_path = "corpus.tokenizer.json",
                           .vocab_size = 300,
                           .end_of_text = 7};
  auto writer = TokenFileWriter::Create(Path("corpus"), info).value();
  ASSERT_TRUE(writer->AddDocument(std::vector<int32_t>{1, 7}).ok());
  ASSERT_TRUE(writer->Finish().ok());
  auto file = TokenFile::Open(Path("corpus")).value();
  EXPECT_EQ(file->info().tokenizer_hash, "abc");
  EXPECT_EQ(file->info().tokenizer_path, Path("corpus.tokenizer.json"));
  EXPECT_EQ(file->info().end_of_text, 7);
  EXPECT_EQ(file->info().vocab_size, 300);
  EXPECT_TRUE(file->CheckIdsBelow(8).ok());
  const Status status = file->CheckIdsBelow(7);
  EXPECT_THAT(status.message(), HasSubstr("token 1 is 7, but model.vocab_size is 7"));
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  // The file promises ids below 300.
  EXPECT_EQ(file->IdError(1, 400, 500).code(), StatusCode::kDataLoss);
}

TEST_F(TokenFileTest, FingerprintIsOfTheStreamAndOfNothingElse) {
  const auto fingerprint = [&](const std::string& name, int64_t vocab_size, int32_t last,
                               int64_t border, int64_t tokens) {
    auto writer = TokenFileWriter::Create(Path(name), {.vocab_size = vocab_size}).value();
    std::vector<int32_t> ids(static_cast<size_t>(tokens));
    for (int64_t i = 0; i < tokens; ++i) ids[i] = static_cast<int32_t>(i * 7919 % 250);
    ids.back() = last;
    const std::span<const int32_t> all(ids);
    EXPECT_TRUE(writer->AddDocument(all.first(border)).ok());
    EXPECT_TRUE(writer->AddDocument(all.subspan(border)).ok());
    EXPECT_TRUE(writer->Finish().ok());
    return TokenFile::Open(Path(name)).value()->Fingerprint();
  };
  for (const int64_t tokens : {10, 100'000, 6'000'001}) {
    const std::string one = fingerprint("one", 300, 3, 5, tokens);
    EXPECT_EQ(fingerprint("other_name", 300, 3, 5, tokens), one);
    // Ids of other widths on disk are the same stream.
    EXPECT_EQ(fingerprint("wide", 100'000, 3, 5, tokens), one);
    EXPECT_NE(fingerprint("last", 300, 4, 5, tokens), one) << tokens;
    EXPECT_NE(fingerprint("border", 300, 3, 6, tokens), one);
  }
}

TEST_F(TokenFileTest, MissingFilesAreNamed) {
  EXPECT_THAT(ErrorOf("none"), HasSubstr("none: no such token file; expected"));
  WriteThree("three", 100);
  fs::remove(Path("three.bin"));
  EXPECT_THAT(ErrorOf("three"), HasSubstr("three.bin: missing beside"));
  WriteThree("three", 100);
  fs::remove(Path("three.idx"));
  EXPECT_THAT(ErrorOf("three"), HasSubstr("no " + Path("three.idx") + " beside it"));
}

TEST_F(TokenFileTest, TruncatedFilesAreNamedWithExpectedAndFoundBytes) {
  WriteThree("three", 100);
  fs::resize_file(Path("three.bin"), 10);
  EXPECT_THAT(ErrorOf("three"),
              HasSubstr("three.bin: holds 10 bytes, expected 12 (6 tokens of ui"));
  fs::resize_file(Path("three.idx"), 90);
  EXPECT_THAT(ErrorOf("three"),
              HasSubstr("three.idx: holds 90 bytes, expected 102 for 3 sequences"));
  fs::resize_file(Path("three.idx"), 20);
  EXPECT_THAT(ErrorOf("three"), HasSubstr("holds 20 bytes, expected a header of 34"));
  fs::resize_file(Path("three.idx"), 0);
  EXPECT_THAT(ErrorOf("three"), HasSubstr("does not begin with MMIDIDX"));
}

TEST_F(TokenFileTest, WrongHeadersAreNamed) {
  WriteThree("three", 100);
  const std::string good = ReadAll(Path("three.idx"));
  const auto with = [&](size_t offset, char value) {
    std::string bad = good;
    bad[offset] = value;
    WriteAll(Path("three.idx"), bad);
    return ErrorOf("three");
  };
  EXPECT_THAT(with(0, 'X'), HasSubstr("does not begin with MMIDIDX"));
  EXPECT_THAT(with(9, 2), HasSubstr("version 2, expected 1"));
  EXPECT_THAT(with(17, 6), HasSubstr("dtype code 6, expected 8 (uint16)"));
  EXPECT_THAT(with(25, 1), HasSubstr("holds 102 bytes, expected more"));
  EXPECT_THAT(with(34, 4), HasSubstr("sequence 1 has 1 tokens at byte 6, expected byte 8"));
  EXPECT_THAT(with(78, 3), HasSubstr("document index 2 is 2, expected ascending"));
}

TEST_F(TokenFileTest, FlippedBitsAreFoundByTheChecksum) {
  WriteThree("three", 100);
  std::string bin = ReadAll(Path("three.bin"));
  bin[0] ^= 1;
  WriteAll(Path("three.bin"), bin);
  EXPECT_THAT(ErrorOf("three"), HasSubstr("three.bin: checksum is "));
  // Above the limit Open() leaves it to VerifyChecksum().
  auto file = TokenFile::Open(Path("three"), {.verify_bytes_max = 4}).value();
  EXPECT_THAT(file->VerifyChecksum().message(), HasSubstr(", expected "));
}

TEST_F(TokenFileTest, ARecordThatDisagreesIsRefused) {
  WriteThree("three", 100);
  WriteAll(Path("three.json"), "{\"tokens\": 7, \"documents\": 3}");
  EXPECT_THAT(ErrorOf("three"), HasSubstr("names 3 documents and 7 tokens"));
  WriteAll(Path("three.json"), "{\"tokens\": \"many\"}");
  EXPECT_THAT(ErrorOf("three"), HasSubstr("three.json: holds a value of the wrong type"));
  WriteAll(Path("three.json"), "{");
  EXPECT_THAT(ErrorOf("three"), HasSubstr("three.json: is not a JSON object"));
}

TEST_F(TokenFileTest, AFullDiskLeavesNothingBehind) {
  auto writer = TokenFileWriter::Create(Path("big"), {.vocab_size = 100}).value();
  rlimit old_limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const rlimit small{.rlim_cur = 64 << 10, .rlim_max = old_limit.rlim_max};
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  Status status;
  const std::vector<int32_t> ids(1 << 16, 1);
  for (int i = 0; i < 64 && status.ok(); ++i) status = writer->AddDocument(ids);
  setrlimit(RLIMIT_FSIZE, &old_limit);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(ExitCode(status), 4);
  EXPECT_THAT(status.message(), HasSubstr("big.bin: cannot be written: "));
  writer.reset();
  EXPECT_TRUE(fs::is_empty(folder_));
}

// Random mutations of valid files: every one is read or refused, none crashes.
TEST_F(TokenFileTest, MutatedFilesNeverCrash) {
  WriteThree("three", 100);
  const CounterRng rng(1, RngUse::kTest, 7);
  std::vector<std::pair<std::string, std::string>> files;
  for (const char* name : {"three.bin", "three.idx", "three.json"}) {
    files.emplace_back(Path(name), ReadAll(Path(name)));
  }
  uint64_t draw = 0;
  int opened = 0;
  for (int round = 0; round < 2000; ++round) {
    // Without the record, so that checksums do not hide the parser; sometimes with a mutated one.
    const auto& [path, good] = files[rng.Below(3, draw++)];
    for (const auto& [other, bytes] : files) WriteAll(other, bytes);
    if (path != files[2].first) fs::remove(files[2].first);
    std::string bad = good;
    const uint64_t changes = 1 + rng.Below(3, draw++);
    for (uint64_t i = 0; i < changes && !bad.empty(); ++i) {
      const uint64_t at = rng.Below(bad.size(), draw++);
      switch (rng.Below(3, draw++)) {
        case 0:
          bad[at] = static_cast<char>(rng.Below(256, draw++));
          break;
        case 1:
          bad.resize(at);
          break;
        default:
          bad.insert(at, 1 + rng.Below(16, draw++), 'x');
      }
    }
    WriteAll(path, bad);
    auto file = TokenFile::Open(Path("three"));
    if (!file.ok()) {
      EXPECT_EQ(ExitCode(file.status()), 3);
      continue;
    }
    ++opened;
    ReadIds(**file);
    for (int64_t i = 0; i <= (*file)->documents(); ++i) (*file)->document_begin(i);
    for (int64_t i = 0; i < (*file)->tokens(); ++i) (*file)->DocumentAt(i);
  }
  EXPECT_GT(opened, 20) << "the mutations must also reach the reader";
}

}  // namespace
}  // namespace trireme
