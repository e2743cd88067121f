// Small vocabularies and golden files for the tests of this folder.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "worker/text/bpe_trainer.h"
#include "worker/text/pretokenize.h"

namespace trireme {

inline std::string TestData(const std::string& name) {
  return std::string(TRIREME_TESTDATA) + "/tokenizer/" + name;
}

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

inline void WriteAll(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
}

// A folder that goes away with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tokenizer_test_XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The texts of a jsonl file of {"text"}.
inline std::vector<std::string> Texts(const std::string& path) {
  std::vector<std::string> texts;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    texts.push_back(nlohmann::json::parse(line)["text"].get<std::string>());
  }
  EXPECT_FALSE(texts.empty()) << path;
  return texts;
}

// The ids of a jsonl file of {"ids"}.
inline std::vector<std::vector<int32_t>> Ids(const std::string& path) {
  std::vector<std::vector<int32_t>> ids;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    ids.push_back(nlohmann::json::parse(line)["ids"].get<std::vector<int32_t>>());
  }
  EXPECT_FALSE(ids.empty()) << path;
  return ids;
}

// Learned from the small corpus of the test data.
inline BpeDefinition TrainSmall(const std::string& pattern_name, int64_t vocab_size,
                                int threads = 1) {
  BpeTrainOptions options;
  options.vocab_size = vocab_size;
  options.pattern = PatternByName(pattern_name);
  auto counter = WordCounter::Create(options.pattern, threads);
  EXPECT_TRUE(counter.ok());
  for (const std::string& text : Texts(TestData("train.jsonl"))) counter.value()->Add(text);
  auto definition = TrainBpe(counter.value()->Finish(), options);
  EXPECT_TRUE(definition.ok()) << definition.status().message();
  return std::move(definition).value();
}

inline std::unique_ptr<Tokenizer> SmallTokenizer(const std::string& pattern_name = "cl100k",
                                                 int64_t vocab_size = 600) {
  auto tokenizer = MakeBpeTokenizer(TrainSmall(pattern_name, vocab_size), "small");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().message();
  return std::move(tokenizer).value();
}

inline std::vector<int32_t> Encode(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<int32_t> ids;
  tokenizer.Encode(text, &ids);
  return ids;
}

}  // namespace trireme
