// Tokenizers on stdin and stdout, and as users look at them.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

class TokenizerCommandTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    for (int i = 0; i < 300; ++i) text += "The oars pull at stroke " + std::to_string(i) + ".\n";
    place_.Write("text.txt", text);
    const Outcome outcome =
        place_.Run("tokenizer train text.txt --vocab-size 280 --out tokenizer.json");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  // `tokenizer encode` or `decode` of what stands on stdin, which must succeed.
  std::string Out(const std::string& command, const std::string& input) {
    const Outcome outcome = Try(command, input);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    return outcome.out;
  }
  Outcome Try(const std::string& command, const std::string& input) {
    return place_.RunWithInput("tokenizer " + command + " --tokenizer tokenizer.json", input);
  }
  Workplace place_;
};

TEST_F(TokenizerCommandTest, DecodeGivesBackEveryByteThatEncodeTook) {
  std::string bytes;
  for (int i = 0; i < 256; ++i) {
    if (i != '\n') bytes += static_cast<char>(i);
  }
  const std::string cut = "The oars \xE2\x82";  // a character without its end
  for (const std::string& text :
       {std::string("The oars pull.\n"), bytes + "\n", cut + "\n\xFF\xFE caf\xC3\xA9\r\n\n\n a\n",
        std::string("no line break at the end"), std::string("\n"), std::string()}) {
    const std::string ids = Out("encode", text);
    EXPECT_EQ(ids.find_first_not_of("0123456789 \n"), std::string::npos) << ids;
    EXPECT_EQ(Lines(ids), Lines(text)) << "one line for each line";
    EXPECT_EQ(Out("decode", ids), text);
  }
}

TEST_F(TokenizerCommandTest, MergesAreUsedAndSpacesBetweenIdsAreFree) {
  const std::string ids = Out("encode", "The oars pull at stroke 7.\n");
  EXPECT_LT(std::count(ids.begin(), ids.end(), ' '), 12) << ids;
  std::string spread = ids;
  for (size_t at = 0; (at = spread.find(' ', at)) != std::string::npos; at += 3) {
    spread.replace(at, 1, " \t ");
  }
  EXPECT_EQ(Out("decode", " " + spread), "The oars pull at stroke 7.\n");
}

TEST_F(TokenizerCommandTest, SpecialTokensAreTextUnlessAskedFor) {
  const std::string text = "a<|endoftext|>\n";
  const std::string plain = Out("encode", text), special = Out("encode --special", text);
  EXPECT_THAT(" " + plain, testing::Not(HasSubstr(" 0\n"))) << "0 is the end of text";
  EXPECT_THAT(special, testing::EndsWith(" 0\n"));
  EXPECT_EQ(std::count(special.begin(), special.end(), ' '), 1) << special;
  EXPECT_EQ(Out("decode", plain), text);
  EXPECT_EQ(Out("decode", special), text);
  const std::string line = Json{{"text", "a<|endoftext|>"}}.dump() + "\n";
  EXPECT_EQ(Json::parse(Out("encode --jsonl --special", line))["ids"].back(), 0);
  EXPECT_NE(Json::parse(Out("encode --jsonl", line))["ids"].back(), 0);
}

TEST_F(TokenizerCommandTest, JsonlHoldsDocumentsWithLineBreaks) {
  const std::vector<std::string> texts = {"The oars\npull.\n", "", "caf\u00e9 \u20ac \"quoted\"\t",
                                          std::string("a\0b", 3)};
  std::string lines;
  for (const std::string& text : texts) lines += Json{{"text", text}}.dump() + "\n";
  const std::string encoded = Out("encode --jsonl", lines);
  EXPECT_EQ(Lines(encoded), 4);
  std::istringstream in(encoded);
  std::string line;
  std::getline(in, line);
  Json first = Json::parse(line);
  std::string ids;
  for (const Json& id : first["ids"]) ids += id.dump() + " ";
  EXPECT_EQ(Out("decode", ids), texts[0]) << "the same ids as without --jsonl";
  std::getline(in, line);
  EXPECT_EQ(Json::parse(line), Json({{"ids", Json::array()}}));

  std::istringstream decoded(Out("decode --jsonl", encoded));
  for (const std::string& text : texts) {
    ASSERT_TRUE(std::getline(decoded, line));
    EXPECT_EQ(Json::parse(line), Json({{"text", text}}));
  }
  EXPECT_FALSE(std::getline(decoded, line));
}

TEST_F(TokenizerCommandTest, ALineThatIsNoneIsNamed) {
  for (const char* line : {"{\"text\": 3}", "[]", "{\"text\": \"a\"", "text", "{\"ids\": [1]}"}) {
    const Outcome outcome = Try("encode --jsonl", "{\"text\": \"a\"}\n" + std::string(line) + "\n");
    ExpectRefused(outcome, 3, "stdin:2: expected {\"text\": \"...\"}");
    EXPECT_EQ(Lines(outcome.out), 1) << "what came before is there";
  }
  for (const auto& [line, message] :
       {std::pair("1 x", "expected token ids separated by spaces, got \"x\""),
        {"1.5", "expected token ids separated by spaces, got \"1.5\""},
        {"1,2", "expected token ids separated by spaces, got \"1,2\""},
        {"99999999999", "id 99999999999: expected 0 to 2147483647"},
        {"280", "id 280 is no token of this vocabulary of 280"},
        {"-1", "id -1 is no token of this vocabulary of 280"}}) {
    ExpectRefused(Try("decode", "1\n" + std::string(line)), 3, "stdin:2: " + std::string(message));
  }
  for (const auto& [line, message] : {std::pair("{\"ids\": 3}", "expected {\"ids\": [...]}"),
                                      {"1 2", "expected {\"ids\": [...]}"},
                                      {"{\"ids\": [1, 280]}", "id 280 is no token"}}) {
    ExpectRefused(Try("decode --jsonl", line), 3, "stdin:1: " + std::string(message));
  }
  ExpectRefused(place_.Run("tokenizer decode --tokenizer nowhere.json"), 3, "nowhere.json");
}

TEST_F(TokenizerCommandTest, ShowSaysWhatATokenizerIs) {
  const Outcome json = place_.Run("tokenizer show tokenizer.json --id 279 --id 66 --json");
  ASSERT_EQ(json.exit_code, 0) << json.err;
  EXPECT_EQ(Lines(json.out), 1);
  Json shown = Json::parse(json.out);
  EXPECT_EQ(shown["kind"], "byte-level BPE, 23 merges, pattern cl100k");
  EXPECT_EQ(shown["vocab_size"], 280);
  EXPECT_EQ(shown["end_of_text"], 0);
  EXPECT_TRUE(shown["bos"].is_null());
  EXPECT_EQ(shown["adds_bos"], false);
  EXPECT_EQ(shown["hash"].get<std::string>().size(), 32u);
  // The texts of tokens are what decode makes of them.
  EXPECT_EQ(shown["tokens"]["279"], Out("decode", "279"));
  EXPECT_EQ(shown["tokens"]["66"], Out("decode", "66"));

  const Outcome text = place_.Run("tokenizer show tokenizer.json --id 66");
  ASSERT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("byte-level BPE, 23 merges, pattern cl100k\n"));
  EXPECT_THAT(text.out, HasSubstr("vocabulary:  280\n"));
  EXPECT_THAT(text.out, HasSubstr("end of text: 0 \"<|endoftext|>\"\n"));
  EXPECT_THAT(text.out, HasSubstr("hash:        " + shown["hash"].get<std::string>() + "\n"));
  EXPECT_THAT(text.out, HasSubstr("66 \"" + Out("decode", "66") + "\"\n"));

  ExpectRefused(place_.Run("tokenizer show tokenizer.json --id 280"), 2,
                "--id 280: no token of this vocabulary of 280");
  ExpectRefused(place_.Run("tokenizer show nowhere.json"), 3, "nowhere.json");
}

}  // namespace
}  // namespace trireme
