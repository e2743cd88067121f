// Ids on record from tiktoken (cl100k, o200k, Llama 3) and Hugging Face's tokenizers (GPT-2, Qwen3)
// for texts in many scripts; the vocabularies are read from TRIREME_SHARED.
#include <cstdlib>

#include "tests/worker_text_tokenizer/tokenizer_test_files.h"

namespace trireme {
namespace {

struct Published {
  const char* name;
  const char* path;  // under data/ of TRIREME_SHARED
  int64_t vocab_size;
  int32_t end_of_text;
  bool adds_bos;
};

void PrintTo(const Published& published, std::ostream* out) { *out << published.name; }

class GoldenIdsTest : public testing::TestWithParam<Published> {
 protected:
  void SetUp() override {
    const char* shared = std::getenv("TRIREME_SHARED");
    if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
    auto loaded = Tokenizer::Load(std::string(shared) + "/data/" + GetParam().path);
    ASSERT_TRUE(loaded.ok()) << loaded.status().message();
    tokenizer_ = std::move(loaded).value();
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_P(GoldenIdsTest, AreThoseOfTheReference) {
  const auto texts = Texts(TestData("multilingual.jsonl"));
  const auto expected = Ids(TestData(std::string("ids_") + GetParam().name + ".jsonl"));
  ASSERT_EQ(texts.size(), expected.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(Encode(*tokenizer_, texts[i]), expected[i]) << texts[i];
    if (std::string(GetParam().name) != "qwen3") {  // NFC
      EXPECT_EQ(tokenizer_->Decode(expected[i]), texts[i]);
    }
  }
}

TEST_P(GoldenIdsTest, KnowTheirSpecialTokens) {
  EXPECT_EQ(tokenizer_->vocab_size(), GetParam().vocab_size);
  EXPECT_EQ(tokenizer_->end_of_text(), GetParam().end_of_text);
  EXPECT_EQ(tokenizer_->adds_bos(), GetParam().adds_bos);
}

TEST_P(GoldenIdsTest, StayTheSameInTokenizerJson) {
  const TemporaryFolder folder;
  ASSERT_TRUE(tokenizer_->Save(folder / "tokenizer.json").ok());
  auto again = Tokenizer::Load(folder.path());
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again.value()->hash(), tokenizer_->hash());
  EXPECT_EQ(again.value()->end_of_text(), tokenizer_->end_of_text());
  EXPECT_EQ(again.value()->adds_bos(), tokenizer_->adds_bos());
  for (const std::string& text : Texts(TestData("multilingual.jsonl"))) {
    EXPECT_EQ(Encode(*again.value(), text), Encode(*tokenizer_, text));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Published, GoldenIdsTest,
    testing::Values(
        Published{"gpt2", "tokenizers/gpt2", 50257, 50256, false},
        Published{"cl100k", "tokenizers/tiktoken/cl100k_base.json", 100277, 100257, false},
        Published{"o200k", "tokenizers/tiktoken/o200k_base.json", 200019, 199999, false},
        Published{"llama3", "tokenizers/tokenizer_llama3.tiktoken", 128256, 128001, true},
        Published{"qwen3", "tokenizers/qwen3", 151669, 151643, false}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(Llama2cTokenizerTest, DecodesTheRecordOfTheSmallStories) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  auto loaded = Tokenizer::Load(std::string(shared) + "/data/weights_stories260k/tok512.bin");
  ASSERT_TRUE(loaded.ok()) << loaded.status().message();
  const Tokenizer& tokenizer = *loaded.value();
  EXPECT_EQ(tokenizer.vocab_size(), 512);
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.end_of_text(), 2);
  EXPECT_TRUE(tokenizer.adds_bos());
  // From llama2.c's own encoder.
  const std::vector<int32_t> expected = {403, 407, 261, 378};
  EXPECT_EQ(Encode(tokenizer, "Once upon a time"), expected);
  for (const std::string& text : Texts(TestData("multilingual.jsonl"))) {
    EXPECT_EQ(tokenizer.Decode(Encode(tokenizer, text)), text);
  }
  const TemporaryFolder folder;
  ASSERT_TRUE(tokenizer.Save(folder / "tokenizer.json").ok());
  auto again = Tokenizer::Load(folder / "tokenizer.json");
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again.value()->hash(), tokenizer.hash());
}

}  // namespace
}  // namespace trireme
