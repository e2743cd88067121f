// Every kind of file, and every way in which one can be broken.
#include <cstring>

#include "cluster/base/rng.h"
#include "tests/worker_text_tokenizer/tokenizer_test_files.h"
#include "worker/text/byte_level.h"

namespace trireme {
namespace {

std::string Base64(const std::string& bytes) {
  const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j) {
      group = group << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0);
    }
    for (size_t j = 0; j < 4; ++j) {
      text += i + j > bytes.size() ? '=' : digits[group >> (18 - 6 * j) & 63];
    }
  }
  return text;
}

// 256 bytes, then "th", "the", " the".
std::string SmallTiktoken() {
  std::string text;
  int rank = 0;
  for (int byte = 0; byte < 256; ++byte) {
    text += Base64(std::string(1, static_cast<char>(byte))) + " " + std::to_string(rank++) + "\n";
  }
  for (const char* token : {"th", "the", " the"}) {
    text += Base64(token) + " " + std::to_string(rank++) + "\n";
  }
  return text;
}

std::string SmallLlama2c() {
  std::string bytes;
  const auto append = [&](const void* value) { bytes.append(static_cast<const char*>(value), 4); };
  const int32_t longest = 8;
  append(&longest);
  const auto token = [&](const std::string& text, float score) {
    const auto size = static_cast<int32_t>(text.size());
    append(&score);
    append(&size);
    bytes += text;
  };
  for (const char* special : {"<unk>", "\n<s>\n", "\n</s>\n"}) token(special, 0);
  for (int byte = 0; byte < 256; ++byte) {
    char spelling[8];
    std::snprintf(spelling, sizeof(spelling), "<0x%02X>", byte);
    token(spelling, 0);
  }
  float score = 0;
  for (const char* piece : {" t", "he", " the", " ", "t", "h", "e"}) token(piece, --score);
  return bytes;
}

struct SmallPair {
  nlohmann::ordered_json vocabulary;
  std::string merges = "#version: 0.2\nt h\nth e\n";
  SmallPair() {
    for (int byte = 0; byte < 256; ++byte) {
      vocabulary[ByteLevelEncode(std::string(1, static_cast<char>(byte)))] = byte;
    }
    vocabulary["th"] = 256;
    vocabulary["the"] = 257;
    vocabulary["<|endoftext|>"] = 258;
  }
};

nlohmann::ordered_json SmallJson() {
  const TemporaryFolder folder;
  EXPECT_TRUE(SmallTokenizer("cl100k", 300)->Save(folder / "t.json").ok());
  return nlohmann::ordered_json::parse(ReadAll(folder / "t.json"));
}

class TokenizerLoadTest : public testing::Test {
 protected:
  // Loads `content` under `name`; the message names the file in every case.
  Status LoadStatus(const std::string& name, const std::string& content,
                    const TokenizerOptions& options = {}) {
    WriteAll(folder_ / name, content);
    const auto loaded = Tokenizer::Load(folder_ / name, options);
    EXPECT_FALSE(loaded.ok()) << name;
    if (loaded.ok()) return OkStatus();
    EXPECT_EQ(loaded.status().message().find('\n'), std::string::npos);
    EXPECT_NE(loaded.status().message().find(folder_.path()), std::string::npos)
        << loaded.status().message();
    return loaded.status();
  }
  void ExpectRefused(const std::string& name, const std::string& content, StatusCode code,
                     const std::string& message) {
    SCOPED_TRACE(message);
    const Status status = LoadStatus(name, content);
    EXPECT_EQ(status.code(), code) << status.message();
    EXPECT_NE(status.message().find(message), std::string::npos) << status.message();
  }
  std::unique_ptr<Tokenizer> LoadOk(const std::string& name, const TokenizerOptions& options = {}) {
    auto loaded = Tokenizer::Load(folder_ / name, options);
    EXPECT_TRUE(loaded.ok()) << loaded.status().message();
    return loaded.ok() ? std::move(loaded).value() : nullptr;
  }

  TemporaryFolder folder_;
};

TEST_F(TokenizerLoadTest, ReadsTiktokenTextByNameOrPattern) {
  WriteAll(folder_ / "cl100k_small.tiktoken", SmallTiktoken());
  const auto by_name = LoadOk("cl100k_small.tiktoken");
  ASSERT_NE(by_name, nullptr);
  EXPECT_EQ(Encode(*by_name, " the the"), (std::vector<int32_t>{258, 258}));
  EXPECT_EQ(by_name->vocab_size(), 259);
  WriteAll(folder_ / "mine.tiktoken", SmallTiktoken());
  const auto by_pattern = LoadOk("mine.tiktoken", {.pattern = "cl100k"});
  ASSERT_NE(by_pattern, nullptr);
  EXPECT_EQ(by_pattern->hash(), by_name->hash());
  const Status status = LoadStatus("mine.tiktoken", SmallTiktoken());
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("give --pattern gpt2, cl100k"), std::string::npos)
      << status.message();
  EXPECT_EQ(LoadStatus("mine.tiktoken", SmallTiktoken(), {.pattern = "(oar"}).code(),
            StatusCode::kInvalidArgument);
}

TEST_F(TokenizerLoadTest, ReadsNpmsTiktokenJson) {
  nlohmann::json json = {{"pat_str", PatternByName("cl100k")},
                         {"special_tokens", {{"<|endoftext|>", 300}}}};
  std::string ranks = "! 0";
  for (int byte = 0; byte < 256; ++byte) {
    ranks += " " + Base64(std::string(1, static_cast<char>(byte)));
  }
  json["bpe_ranks"] = ranks + "\n! 256 " + Base64("th") + " " + Base64("the");
  WriteAll(folder_ / "small.json", json.dump());
  const auto tokenizer = LoadOk("small.json");
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(Encode(*tokenizer, "the"), (std::vector<int32_t>{257}));
  EXPECT_EQ(tokenizer->end_of_text(), 300);
  EXPECT_EQ(tokenizer->vocab_size(), 301);
  EXPECT_FALSE(tokenizer->IsToken(299));
  json["bpe_ranks"] = "! 0 IQ== ***";
  ExpectRefused("small.json", json.dump(), StatusCode::kDataLoss, "\"***\" is not base64");
  json["bpe_ranks"] = "! x IQ==";
  ExpectRefused("small.json", json.dump(), StatusCode::kDataLoss, "first rank");
  json["bpe_ranks"] = "! 0 IQ==\n! 0 Ig==";
  ExpectRefused("small.json", json.dump(), StatusCode::kDataLoss, "rank 0 stands twice");
  json.erase("pat_str");
  ExpectRefused("small.json", json.dump(), StatusCode::kDataLoss, "expected pat_str");
}

TEST_F(TokenizerLoadTest, RefusesBrokenTiktokenText) {
  const auto refused = [&](const std::string& content, const std::string& message) {
    ExpectRefused("gpt2.tiktoken", content, StatusCode::kDataLoss, message);
  };
  refused(SmallTiktoken() + "AA*= 300\n", ":260: \"AA*=\" is not base64");
  refused(SmallTiktoken() + "dGg=\n", ":260: expected base64 and a rank");
  refused(SmallTiktoken() + "dGg= 12x\n", ":260: expected base64 and a rank");
  refused(SmallTiktoken() + "dGhlcmU= 3\n", "rank 3 stands twice");
  refused(SmallTiktoken() + "dGhlcmU= 99999999999\n", "out of range");
  refused("not a vocabulary\n", "expected lines of base64");
}

TEST_F(TokenizerLoadTest, ReadsVocabularyAndMergesByAnyOfTheFourNames) {
  const SmallPair pair;
  WriteAll(folder_ / "encoder.json", pair.vocabulary.dump());
  WriteAll(folder_ / "vocab.bpe", pair.merges);
  for (const char* name : {"encoder.json", "vocab.bpe", ""}) {
    const auto tokenizer = LoadOk(name);
    ASSERT_NE(tokenizer, nullptr);
    EXPECT_EQ(Encode(*tokenizer, "the"), (std::vector<int32_t>{257}));
    EXPECT_EQ(tokenizer->end_of_text(), 258);
  }
}

TEST_F(TokenizerLoadTest, RefusesBrokenVocabularyAndMerges) {
  SmallPair pair;
  WriteAll(folder_ / "merges.txt", pair.merges);
  const auto refused = [&](const std::string& vocabulary, const std::string& message) {
    ExpectRefused("vocab.json", vocabulary, StatusCode::kDataLoss, message);
  };
  refused("{\"a\": 0,", "vocab.json: expected an object");
  refused("{\"a\": \"b\"}", "token \"a\" has no integer id");
  refused("{\"a\": 0, \"b\": 0}", "id 0 of token \"b\" stands twice");
  refused("{\"a\": -1}", "id -1 of token \"a\"");
  refused("{\"t\": 0, \"h\": 1}", "merges.txt:2: \"t h\" names a token");
  WriteAll(folder_ / "merges.txt", pair.merges + "th e x\n");
  refused(pair.vocabulary.dump(), "merges.txt:4: expected two tokens");
  std::filesystem::remove(folder_ / "merges.txt");
  refused(pair.vocabulary.dump(), "merges.txt or vocab.bpe is missing");
}

TEST_F(TokenizerLoadTest, ReadsLlama2c) {
  WriteAll(folder_ / "tokenizer.bin", SmallLlama2c());
  const auto tokenizer = LoadOk("tokenizer.bin");
  ASSERT_NE(tokenizer, nullptr);
  // " the": " t" and "he" first, then both. "x" has no piece, only its byte.
  EXPECT_EQ(Encode(*tokenizer, "the"), (std::vector<int32_t>{261}));
  EXPECT_EQ(Encode(*tokenizer, "x"), (std::vector<int32_t>{262, 3 + 'x'}));
  EXPECT_EQ(Encode(*tokenizer, "\xff"), (std::vector<int32_t>{262, 3 + 0xff}));
  EXPECT_TRUE(Encode(*tokenizer, "").empty());
  EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, " the\xffx")), " the\xffx");
  EXPECT_EQ(tokenizer->TokenBytes(261), " the");
  std::vector<int32_t> ids;
  tokenizer->EncodeWithSpecials("the", &ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{1, 261}));
  const std::string whole = SmallLlama2c();
  for (const size_t size : {whole.size() - 1, whole.size() - 5, size_t{100}, size_t{17}}) {
    ExpectRefused("tokenizer.bin", whole.substr(0, size), StatusCode::kDataLoss, "truncated");
  }
}

TEST_F(TokenizerLoadTest, RefusesWhatIsNotThereOrNotBuilt) {
  EXPECT_EQ(Tokenizer::Load(folder_ / "nothing").status().message(),
            folder_ / "nothing: no such file or folder");
  EXPECT_EQ(Tokenizer::Load(folder_.path()).status().code(), StatusCode::kDataLoss);
  ExpectRefused("tokenizer.model", "\x0a\x0e\x0a", StatusCode::kNotBuilt, "SentencePiece");
  ExpectRefused("vocab.txt", "[PAD]\n[UNK]\n", StatusCode::kNotBuilt, "WordPiece");
  const std::string gguf = "GGUF\3";
  ExpectRefused("weights.gguf", gguf, StatusCode::kNotBuilt, "GGUF files are not built yet");
  ExpectRefused("weights", gguf, StatusCode::kNotBuilt, "GGUF files are not built yet");
  std::filesystem::create_directory(folder_ / "folder");
  WriteAll(folder_ / "folder/tokenizer.gguf", gguf);
  const Status of_folder = Tokenizer::Load(folder_ / "folder").status();
  EXPECT_EQ(of_folder.code(), StatusCode::kNotBuilt);
  EXPECT_NE(of_folder.message().find("tokenizer.gguf: "), std::string::npos);
  ExpectRefused("what", "text", StatusCode::kDataLoss, "not a tokenizer");
  ExpectRefused("empty.json", "", StatusCode::kDataLoss, "expected a json object");
}

TEST_F(TokenizerLoadTest, RefusesBrokenTokenizerJson) {
  const nlohmann::ordered_json good = SmallJson();
  const auto refused = [&](const std::function<void(nlohmann::ordered_json&)>& change,
                           const std::string& message, StatusCode code = StatusCode::kDataLoss) {
    nlohmann::ordered_json json = good;
    change(json);
    ExpectRefused("tokenizer.json", json.dump(), code, message);
  };
  using Json = nlohmann::ordered_json;
  const StatusCode not_built = StatusCode::kNotBuilt;
  ExpectRefused("tokenizer.json", good.dump().substr(0, good.dump().size() / 2),
                StatusCode::kDataLoss, "tokenizer.json");
  refused([](Json& j) { j.erase("model"); }, "no model");
  refused([](Json& j) { j["model"]["type"] = "Unigram"; }, "models of type Unigram", not_built);
  refused([](Json& j) { j["model"].erase("vocab"); }, "model.vocab is missing");
  refused([](Json& j) { j["model"].erase("merges"); }, "model.merges is missing");
  refused([](Json& j) { j["model"]["vocab"]["zzz"] = "x"; }, "\"zzz\" has no integer id");
  refused([](Json& j) { j["model"]["vocab"]["zzz"] = 5; }, "id 5 of token \"zzz\" stands twice");
  refused(
      [](Json& j) {
        j["model"]["merges"][0] = {"q", "zq"};
      },
      "model.merges[0]: \"q\" and \"zq\"");
  refused([](Json& j) { j["model"]["merges"][1] = {"q"}; }, "model.merges[1]: expected two");
  refused(
      [](Json& j) {
        j["normalizer"] = {{"type", "Lowercase"}};
      },
      "normaliser Lowercase", not_built);
  refused([](Json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; }, "Metaspace", not_built);
  refused([](Json& j) { j["pre_tokenizer"] = nullptr; }, "not byte-level", not_built);
  refused([](Json& j) { j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"; },
          "a Split that is Removed", not_built);
  refused(
      [](Json& j) {
        j["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {{"Regex", "(a"}};
      },
      "does not compile", StatusCode::kInvalidArgument);
  refused([](Json& j) { j["added_tokens"][0].erase("content"); }, "without id or content");
  refused([](Json& j) { j["added_tokens"][0]["id"] = 7; }, "id 7 of \"<|endoftext|>\" is taken");
  refused([](Json& j) { j["post_processor"] = {{"type", "TemplateProcessing"}}; }, "\"single\"");
}

TEST_F(TokenizerLoadTest, ReadsOldMergesAndSeveralSplits) {
  nlohmann::ordered_json json = SmallJson();
  WriteAll(folder_ / "new.json", json.dump());
  for (auto& merge : json["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  WriteAll(folder_ / "old.json", json.dump());
  EXPECT_EQ(LoadOk("old.json")->hash(), LoadOk("new.json")->hash());
  auto& steps = json["pre_tokenizer"]["pretokenizers"];
  const nlohmann::ordered_json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const nlohmann::ordered_json dots = {
      {"type", "Split"}, {"pattern", {{"String", "."}}}, {"behavior", "Isolated"}};
  steps.insert(steps.begin(), {digits, dots});
  WriteAll(folder_ / "splits.json", json.dump());
  const auto tokenizer = LoadOk("splits.json");
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(Encode(*tokenizer, "12..").size(), 4u);
}

TEST_F(TokenizerLoadTest, TokenizerConfigNamesTheEndWhereNamesDoNot) {
  nlohmann::ordered_json json = SmallJson();
  json["added_tokens"][0]["content"] = "<stop>";
  json["added_tokens"][0]["id"] = 300;
  WriteAll(folder_ / "tokenizer.json", json.dump());
  EXPECT_FALSE(LoadOk("")->end_of_text().has_value());
  WriteAll(folder_ / "tokenizer_config.json", R"({"eos_token": {"content": "<stop>"}})");
  EXPECT_EQ(LoadOk("")->end_of_text(), 300);
  WriteAll(folder_ / "tokenizer_config.json", "broken");
  EXPECT_FALSE(LoadOk("")->end_of_text().has_value());
}

// Bytes changed, removed and doubled: a reader refuses or reads, and what it reads works.
TEST_F(TokenizerLoadTest, SurvivesDamagedFiles) {
  const SmallPair pair;
  const std::pair<const char*, std::string> files[] = {
      {"tokenizer.json", SmallJson().dump()}, {"gpt2.tiktoken", SmallTiktoken()},
      {"tokenizer.bin", SmallLlama2c()},      {"merges.txt", pair.merges},
      {"vocab.json", pair.vocabulary.dump()},
  };
  for (const auto& [name, content] : files) WriteAll(folder_ / name, content);
  const CounterRng rng(11, RngUse::kTest, 0);
  uint64_t element = 0;
  for (const auto& [name, content] : files) {
    int loaded = 0;
    for (int round = 0; round < 120; ++round) {
      std::string damaged = content;
      const uint64_t changes = 1 + rng.Below(3, element++);
      for (uint64_t i = 0; i < changes; ++i) {
        const uint64_t at = rng.Below(damaged.size(), element++);
        const uint64_t kind = rng.Below(4, element++);
        if (kind == 0) damaged[at] = static_cast<char>(rng.Below(256, element++));
        if (kind == 1) damaged.erase(at, 1 + rng.Below(40, element++));
        if (kind == 2) damaged.insert(at, damaged.substr(at, 1 + rng.Below(40, element++)));
        if (kind == 3 && rng.Below(4, element++) == 0) damaged.resize(at + 1);
        if (damaged.empty()) damaged = "x";
      }
      WriteAll(folder_ / name, damaged);
      const auto tokenizer = Tokenizer::Load(folder_ / name);
      if (!tokenizer.ok()) continue;
      ++loaded;
      std::vector<int32_t> ids;
      tokenizer.value()->EncodeWithSpecials("the oars \u6868 <|endoftext|> 12", &ids);
      tokenizer.value()->Decode(ids);
    }
    EXPECT_LT(loaded, 120) << name << ": damage was never noticed";
    WriteAll(folder_ / name, content);
  }
}

}  // namespace
}  // namespace trireme
