// Lines and documents on their way in: which are passed over, and what is said of those that cannot
// be read.
#include <nlohmann/json.hpp>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

class TextLinesTest : public SmallRunTest {
 protected:
  Outcome Encode(const std::string& input) {
    return place_.RunWithInput("tokenizer encode --tokenizer tokenizer.json --jsonl", input);
  }
  Outcome Decode(const std::string& input) {
    return place_.RunWithInput("tokenizer decode --tokenizer tokenizer.json --jsonl", input);
  }
  Outcome Score(const std::string& input) {
    return place_.RunWithInput("score --model run", input);
  }
};

constexpr char kHalfAPair[] =
    "not valid UTF-8: an escape \\uD800 to \\uDFFF that is half of a pair";

TEST_F(TextLinesTest, BlankLinesOfJsonlArePassedOver) {
  Train();
  const std::string encoded = Encode("\n{\"text\": \"The\"}\n \t\r\n{\"text\": \"oars\"}\n\n").out;
  EXPECT_EQ(encoded, Encode("{\"text\": \"The\"}\n{\"text\": \"oars\"}\n").out);
  EXPECT_EQ(Lines(encoded), 2);
  EXPECT_EQ(Decode("\n" + encoded + "\n").out, "{\"text\":\"The\"}\n{\"text\":\"oars\"}\n");
  const std::string request = "{\"context_ids\": [5, 6], \"continuation_ids\": [7]}\n";
  const Outcome scored = Score("\n" + request + "\n  \n" + request);
  EXPECT_EQ(scored.exit_code, 0) << scored.err;
  EXPECT_EQ(scored.out, Score(request + request).out);
}

TEST_F(TextLinesTest, AByteOrderMarkIsTakenOff) {
  Train();
  const std::string mark = "\xef\xbb\xbf";
  place_.Write("plain.txt", "The oars");
  place_.Write("marked.txt", mark + "The oars");
  const auto ids = [&](const std::string& file) {
    const Outcome outcome =
        place_.Run("generate --model run --max-tokens 1 --json --prompt-file " + file);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return Json::parse(outcome.out)["prompt_ids"];
  };
  EXPECT_EQ(ids("marked.txt"), ids("plain.txt"));
  const std::string encoded = Encode("{\"text\": \"The oars\"}\n").out;
  place_.Write("tokenizer.json", mark + place_.Read("tokenizer.json"));
  const Outcome outcome = Encode("{\"text\": \"The oars\"}\n");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, encoded);
}

TEST_F(TextLinesTest, WhatIsNoUtf8IsCalledSo) {
  Train();
  ExpectRefused(Encode("\n{\"text\": \"a\xff\"}\n"), 3, "stdin:2: not valid UTF-8\n");
  ExpectRefused(Encode("{\"text\": \"\\ud800\"}\n"), 3, std::string("stdin:1: ") + kHalfAPair);
  ExpectRefused(Encode("{\"txt\": 1}\n"), 3, "stdin:1: expected {\"text\": \"...\"}");
  ExpectRefused(Encode("{\"text\": 1e999}\n"), 3, "stdin:1: expected {\"text\": \"...\"}");
  ExpectRefused(Decode("{\"ids\xff\": []}\n"), 3, "stdin:1: not valid UTF-8\n");
  ExpectRefused(Score("{\"context\": \"a\xff\", \"continuation\": \"b\"}\n"), 3,
                "line 1: not valid UTF-8\n");
  ExpectRefused(Score("{\"context\": \"\\udc00\", \"continuation\": \"b\"}\n"), 3,
                std::string("line 1: ") + kHalfAPair);
  ExpectRefused(Score("nothing\n"), 3, "line 1: expected a JSON object");
  place_.Write("half.jsonl", "{\"text\": \"\\ud800\"}\n");
  const std::string half = std::string("half.jsonl:1: ") + kHalfAPair;
  ExpectRefused(place_.Run("clean half.jsonl --out c.jsonl"), 3, half);
  ExpectRefused(place_.Run("pack half.jsonl --tokenizer tokenizer.json --out c"), 3, half);
}

TEST_F(TextLinesTest, EvalReadsTheStreamThatPackWrites) {
  Train();
  place_.Write("gaps.jsonl",
               "{\"text\": \"\"}\n{\"text\": \"The oars of\"}\n{\"text\": \"\"}\n"
               "{\"text\": \"bank 3 pull\"}\n{\"text\": \"\"}\n");
  place_.Write("whole.jsonl", "{\"text\": \"The oars of\"}\n{\"text\": \"bank 3 pull\"}\n");
  const auto evaluate = [&](const std::string& name) {
    const Outcome outcome = place_.Run("eval --model run --task perplexity=" + name + " --json");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    Json report = Json::parse(outcome.out);
    report.erase("task");
    return report;
  };
  EXPECT_EQ(evaluate("gaps.jsonl"), evaluate("whole.jsonl"));
  place_.Write("empty.jsonl", "{\"text\": \"\"}\n");
  ExpectRefused(place_.Run("eval --model run --task perplexity=empty.jsonl"), 3,
                "empty.jsonl: 0 tokens: nothing to predict");
}

TEST_F(TextLinesTest, AColumnHasANameOrANumberFromOne) {
  MakeTokens();
  place_.Write("a.csv", "1,one\n2,two\n");
  for (const std::string field : {"0", "-1"}) {
    ExpectRefused(
        place_.Run("clean a.csv --out a.jsonl --field=" + field), 2,
        "--field " + field + ": a.csv: expected the name of a column, or its number from 1");
  }
  ExpectRefused(place_.Run("clean a.csv --out a.jsonl --field 3"), 3,
                "a.csv:1: a row of 2 columns, expected at least 3");
  EXPECT_EQ(place_.Run("clean a.csv --out a.jsonl --field 2 --min-characters 1").exit_code, 0);
  place_.Write("b.jsonl", "{\"0\": \"a key of that name\"}\n");
  EXPECT_EQ(place_.Run("clean b.jsonl --out c.jsonl --field 0").exit_code, 0);
}

// As many as there is room for, unless a number is asked for.
TEST_F(TextLinesTest, AContinuationEndsWithThePositions) {
  Train();
  const Outcome outcome =
      place_.Run("generate --model run --prompt-ids 5,6,7,8 --ignore-eos --json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out)["ids"].size(), 60u);
  EXPECT_EQ(Json::parse(outcome.out)["finish_reason"], "length");
  ExpectRefused(place_.Run("generate --model run --prompt-ids 5,6,7,8 --max-tokens 100"), 2,
                "prompt of 4 and 100 new tokens: the model has 64 positions");
  std::string ids = "5";
  for (int i = 1; i < 64; ++i) ids += ",5";
  ExpectRefused(place_.Run("generate --model run --prompt-ids " + ids), 2,
                "prompt of 64 and 1 new tokens: the model has 64 positions");
}

}  // namespace
}  // namespace trireme
