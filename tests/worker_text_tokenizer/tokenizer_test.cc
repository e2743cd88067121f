// Encoding, decoding and special tokens over small vocabularies.
#include "worker/text/tokenizer.h"

#include <thread>

#include "cluster/base/rng.h"
#include "tests/worker_text_tokenizer/tokenizer_test_files.h"
#include "worker/text/byte_level.h"

namespace trireme {
namespace {

TEST(ByteLevelTest, SpellsEveryByteAndReadsItBack) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  std::string back;
  ASSERT_TRUE(ByteLevelDecode(ByteLevelEncode(all), &back));
  EXPECT_EQ(back, all);
  EXPECT_EQ(ByteLevelEncode(" a\n"), "\u0120a\u010a");
  EXPECT_FALSE(ByteLevelDecode("a b", &back));
  EXPECT_FALSE(ByteLevelDecode("\u4e2d", &back));
  EXPECT_FALSE(ByteLevelDecode("\xc4", &back));
}

TEST(TokenizerTest, DecodesWhatItEncoded) {
  const auto tokenizer = SmallTokenizer();
  for (const std::string& text : Texts(TestData("multilingual.jsonl"))) {
    EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, text)), text);
    std::string joined;
    for (const int32_t id : Encode(*tokenizer, text)) joined += tokenizer->TokenBytes(id);
    EXPECT_EQ(joined, text);
  }
}

TEST(TokenizerTest, BytesThatAreNotUtf8BecomeByteTokens) {
  const auto tokenizer = SmallTokenizer();
  const CounterRng rng(3, RngUse::kTest, 0);
  std::string noise;
  for (int i = 0; i < 100000; ++i) noise += static_cast<char>(rng.Below(256, i));
  EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, noise)), noise);
  // The oars, a lone lead byte, a surrogate, the oars again.
  const std::string broken = "the oars\xe4\xed\xa0\x80the oars";
  std::vector<int32_t> expected = Encode(*tokenizer, "the oars");
  const std::vector<int32_t> after = expected;
  for (const char* byte : {"\xe4", "\xed", "\xa0", "\x80"}) {
    const std::vector<int32_t> one = Encode(*tokenizer, byte);
    ASSERT_EQ(one.size(), 1u);
    EXPECT_EQ(tokenizer->TokenBytes(one[0]), byte);
    expected.push_back(one[0]);
  }
  expected.insert(expected.end(), after.begin(), after.end());
  EXPECT_EQ(Encode(*tokenizer, broken), expected);
}

TEST(TokenizerTest, SpecialTokensAreTextUnlessAskedFor) {
  const auto tokenizer = SmallTokenizer();
  const std::string text = "row<|endoftext|>row";
  for (const int32_t id : Encode(*tokenizer, text)) EXPECT_NE(id, tokenizer->end_of_text());
  std::vector<int32_t> ids, expected = Encode(*tokenizer, "row");
  tokenizer->EncodeWithSpecials(text, &ids);
  expected.push_back(*tokenizer->end_of_text());
  for (const int32_t id : Encode(*tokenizer, "row")) expected.push_back(id);
  EXPECT_EQ(ids, expected);
  EXPECT_EQ(tokenizer->Decode(ids), text);
}

TEST(TokenizerTest, AddedTokensStripAndStandAloneAsTheySay) {
  BpeDefinition definition = TrainSmall("gpt2", 300);
  const auto add = [&](const std::string& content) -> AddedToken& {
    AddedToken token;
    token.id = static_cast<int32_t>(definition.tokens.size());
    token.content = content;
    definition.tokens.push_back(content);
    definition.present.push_back(true);
    definition.added.push_back(token);
    return definition.added.back();
  };
  add("<mask>").left_strip = true;
  add("<end>").right_strip = true;
  add("oar").single_word = true;
  add("<end><end>");
  auto made = MakeBpeTokenizer(definition, "test");
  ASSERT_TRUE(made.ok()) << made.status().message();
  const auto encode = [&](const std::string& text) {
    std::vector<int32_t> ids;
    made.value()->EncodeWithSpecials(text, &ids);
    std::string joined;
    for (const int32_t id : ids) joined += "|" + made.value()->TokenBytes(id);
    return joined;
  };
  EXPECT_EQ(encode("x \u3000<mask>y"), "|x|<mask>|y");
  EXPECT_EQ(encode("x<end>\n y"), "|x|<end>|y");
  EXPECT_EQ(encode(",oar,"), "|,|oar|,");
  EXPECT_EQ(encode("oars").find("|oar"), std::string::npos);
  EXPECT_EQ(encode("\u00e9oar").find("|oar"), std::string::npos);
  EXPECT_EQ(encode("<end><end><end>"), "|<end><end>|<end>");  // the longest first
}

TEST(TokenizerTest, ATemplatePutsSpecialTokensAroundTheText) {
  BpeDefinition definition = TrainSmall("gpt2", 300);
  definition.bos = 0;
  definition.template_prefix = {0};
  definition.template_suffix = {0, 0};
  auto made = MakeBpeTokenizer(definition, "test");
  ASSERT_TRUE(made.ok());
  EXPECT_TRUE(made.value()->adds_bos());
  std::vector<int32_t> ids;
  made.value()->EncodeWithSpecials("", &ids);
  EXPECT_EQ(ids, (std::vector<int32_t>{0, 0, 0}));
  EXPECT_TRUE(Encode(*made.value(), "").empty());
  const TemporaryFolder folder;
  ASSERT_TRUE(made.value()->Save(folder / "t.json").ok());
  auto again = Tokenizer::Load(folder / "t.json");
  ASSERT_TRUE(again.ok()) << again.status().message();
  EXPECT_EQ(again.value()->hash(), made.value()->hash());
  EXPECT_TRUE(again.value()->adds_bos());
}

TEST(TokenizerTest, ThreadsShareOneTokenizer) {
  const auto tokenizer = SmallTokenizer();
  const auto texts = Texts(TestData("train.jsonl"));
  std::vector<std::vector<int32_t>> expected;
  for (const std::string& text : texts) expected.push_back(Encode(*tokenizer, text));
  std::vector<std::thread> threads;
  std::vector<int> differing(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) {
        differing[t] += Encode(*tokenizer, texts[i]) != expected[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(differing, std::vector<int>(4, 0));
}

TEST(TokenizerTest, TheHashTellsTokenizersApart) {
  const std::string hash = SmallTokenizer()->hash();
  EXPECT_EQ(SmallTokenizer()->hash(), hash);
  EXPECT_NE(SmallTokenizer("gpt2")->hash(), hash);
  EXPECT_NE(SmallTokenizer("cl100k", 599)->hash(), hash);
  BpeDefinition nfc = TrainSmall("cl100k", 600);
  nfc.nfc = true;
  EXPECT_NE(MakeBpeTokenizer(nfc, "nfc").value()->hash(), hash);
}

TEST(TokenizerTest, NfcComposesBeforeEncoding) {
  BpeDefinition definition = TrainSmall("cl100k", 400);
  definition.nfc = true;
  auto made = MakeBpeTokenizer(definition, "nfc");
  ASSERT_TRUE(made.ok());
  EXPECT_EQ(Encode(*made.value(), "e\u0301 \u1100\u1161"), Encode(*made.value(), "\u00e9 \uac00"));
}

TEST(TokenizerTest, IdsOutsideOfTheVocabularyGiveNothing) {
  const auto tokenizer = SmallTokenizer();
  const std::vector<int32_t> ids = {-1, 1 << 30, 600};
  EXPECT_EQ(tokenizer->Decode(ids), "");
  EXPECT_FALSE(tokenizer->IsToken(-1));
  EXPECT_FALSE(tokenizer->IsToken(600));
  EXPECT_TRUE(tokenizer->IsToken(599));
  EXPECT_EQ(tokenizer->TokenBytes(600), "");
}

TEST(TokenizerTest, SaveReportsAFolderThatCannotBeWritten) {
  const Status status = SmallTokenizer()->Save("/proc/no/tokenizer.json");
  EXPECT_EQ(status.code(), StatusCode::kStorage);
  EXPECT_NE(status.message().find("/proc/no"), std::string::npos) << status.message();
}

}  // namespace
}  // namespace trireme
