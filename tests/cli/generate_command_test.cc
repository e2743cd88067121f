// Generation by the built program, from published weights.
#include <gmock/gmock.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace trireme {
namespace {

using Json = nlohmann::json;

// The text of the 200 greedy tokens after BOS that another implementation put on record.
class Stories260kTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* shared = std::getenv("TRIREME_SHARED");
    if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
    folder_ = std::filesystem::path(shared) / "data" / "weights_stories260k";
    std::ifstream in(folder_ / "greedy_200_tokens.txt");
    ASSERT_TRUE(in) << folder_ << ": no record";
    record_.assign(std::istreambuf_iterator<char>(in), {});
    while (record_.ends_with('\n')) record_.pop_back();
    ASSERT_GT(record_.size(), 400u);
  }
  std::string TokenizerOption() const {
    return " --tokenizer " + (folder_ / "tok512.bin").string();
  }
  // The command of the documentation, with more options behind it.
  Outcome Generate(const std::string& options) const {
    return place_.Run("generate --model " + (folder_ / "stories260K.bin").string() +
                      TokenizerOption() +
                      " --prompt \"\" --max-tokens 200 --temperature 0 --ignore-eos " + options);
  }
  Workplace place_;
  std::filesystem::path folder_;
  std::string record_;
};

TEST_F(Stories260kTest, TellsTheStoryOnRecord) {
  for (const char* threads : {"1", "2"}) {
    const Outcome outcome = Generate(std::string("--threads ") + threads);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(outcome.out, record_ + "\n");
  }
}

TEST_F(Stories260kTest, TheStoryIsTwoHundredTokens) {
  const Outcome outcome = Generate("--json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Lines(outcome.out), 1);
  Json story = Json::parse(outcome.out);
  EXPECT_EQ(story["prompt_ids"], Json({1})) << "BOS";
  ASSERT_EQ(story["ids"].size(), 200u);
  EXPECT_EQ(story["text"], record_);
  EXPECT_EQ(story["finish_reason"], "length");
  ASSERT_EQ(story["logprobs"].size(), 200u);
  for (const Json& logprob : story["logprobs"]) EXPECT_LE(logprob.get<double>(), 0);
  std::string ids = "1";
  for (const Json& id : story["ids"]) ids += " " + id.dump();
  const Outcome decoded = place_.RunWithInput("tokenizer decode" + TokenizerOption(), ids);
  ASSERT_EQ(decoded.exit_code, 0) << decoded.err;
  EXPECT_THAT(decoded.out, testing::EndsWith(record_)) << "BOS has a text of its own";
}

// The space that this tokenizer puts before a document is none of its bytes.
TEST_F(Stories260kTest, SaysWhichOptionsBeamsDoNotUse) {
  const Outcome quiet = Generate("--beams 2");
  ASSERT_EQ(quiet.exit_code, 0) << quiet.err;
  EXPECT_EQ(quiet.err, "");
  const Outcome told = Generate("--beams 2 --top-p 0.5 --top-k 3 --seed 7");
  EXPECT_EQ(told.exit_code, 0);
  EXPECT_EQ(told.out, quiet.out);
  EXPECT_EQ(told.err,
            "trireme generate: --top-k has no effect with --beams 2\n"
            "trireme generate: --top-p has no effect with --beams 2\n"
            "trireme generate: --seed has no effect with --beams 2\n");
}

TEST_F(Stories260kTest, PerplexityCountsTheBytesThatWereRead) {
  place_.Write("two.jsonl", "{\"text\": \"Once upon\"}\n{\"text\": \" a time.\"}\n");
  const std::string eval =
      "eval --model " + (folder_ / "stories260K.bin").string() + " --bos --json ";
  const Outcome text = place_.Run(eval + TokenizerOption() + " --task perplexity=two.jsonl");
  ASSERT_EQ(text.exit_code, 0) << text.err;
  EXPECT_EQ(Json::parse(text.out)["bytes"], 9 + 8);
  ASSERT_EQ(place_.Run("pack two.jsonl --out two" + TokenizerOption()).exit_code, 0);
  // Without a tokenizer the model itself knows its BOS.
  std::filesystem::remove(place_.Path("two.json"));
  std::filesystem::remove(place_.Path("two.tokenizer.json"));
  const auto tokens = [&](const std::string& options) {
    const Outcome outcome = place_.Run(eval + "--task perplexity=two" + options);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return Json::parse(outcome.out);
  };
  const Json with = tokens(TokenizerOption()), without = tokens("");
  EXPECT_EQ(without["nll_sum"], with["nll_sum"]);
  EXPECT_EQ(with["bytes"], 9 + 8);
  EXPECT_TRUE(without["bytes"].is_null());
}

}  // namespace
}  // namespace trireme
