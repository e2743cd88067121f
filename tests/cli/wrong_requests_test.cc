// What users get wrong when they run models and start runs: refused before any work is lost, and
// never answered with something else.
#include <nlohmann/json.hpp>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

class WrongRequestsTest : public SmallRunTest {
 protected:
  Outcome Generate(const std::string& options) {
    return place_.Run("generate --model run " + options);
  }
  Outcome WithInput(const std::string& arguments, const std::string& input) {
    return place_.RunWithInput(arguments, input);
  }
};

TEST_F(WrongRequestsTest, OfGenerate) {
  Train();
  const Outcome beams = Generate("--prompt The --beams 3 --max-tokens 8 --temperature 0");
  ASSERT_EQ(beams.exit_code, 0) << beams.err;
  const Outcome json = Generate("--prompt The --beams 3 --max-tokens 8 --temperature 0 --json");
  std::string ids;
  const Json report = Json::parse(json.out);
  for (const auto& id : report["ids"]) ids += id.dump() + " ";
  EXPECT_EQ(WithInput("tokenizer decode --tokenizer tokenizer.json", ids + "\n").out, beams.out)
      << "once";

  ExpectRefused(Generate("--prompt The --max-tokens 9223372036854775807"), 2, "64 positions");
  ExpectRefused(Generate("--prompt The --beams 100000"), 2, "--beams 100000: expected 1 to 1024");
  ExpectRefused(Generate("--prompt The --threads -2"), 2, "--threads -2: expected 0 to 4096");
  ExpectRefused(Generate("--prompt The --stop ''"), 2, "--stop: expected a text");
  ExpectRefused(Generate("--prompt The --temperature inf"), 2, "--temperature inf");
  ExpectRefused(Generate("--prompt The --length-penalty nan"), 2, "--length-penalty nan");
  ExpectRefused(Generate("--prompt-file ."), 3, ".: cannot be read");
  ExpectRefused(Generate(""), 2, "no prompt: expected --prompt");
  for (const auto& [ids, got] : {std::pair{"''", "got nothing"},
                                 {"1,,3", "got \",3\" after 1"},
                                 {"0x3", "got \"x3\""},
                                 {"1,99999999999", "id 99999999999: expected 0 to 2147483647"},
                                 {"[1,3]", "got \"[1,3]\""},
                                 {"1,", "got nothing after 1"}}) {
    ExpectRefused(Generate(std::string("--prompt-ids ") + ids), 2, got);
  }
  for (const char* ids : {"1,3", "'1 3'", "'1, 3'"}) {
    const Outcome outcome = Generate(std::string("--json --max-tokens 2 --prompt-ids ") + ids);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(Json::parse(outcome.out)["prompt_ids"], Json({1, 3})) << ids;
  }
}

TEST_F(WrongRequestsTest, OfScore) {
  Train();
  const auto score = [&](const std::string& input) {
    return WithInput("score --model run --json", input);
  };
  const std::string good = R"({"context_ids": [5, 6], "continuation_ids": [7]})"
                           "\n";
  ExpectRefused(score(R"({"context_ids": [1.5], "continuation_ids": [6]})"), 3,
                "line 1: \"context_ids\" holds 1.5");
  EXPECT_THAT(score(R"({"context_ids": [4294967297], "continuation_ids": [6]})").err,
              HasSubstr("line 1: \"context_ids\": id 4294967297: expected 0 to 2147483647"));
  EXPECT_EQ(score(good + "\n\n").exit_code, 0);
  // Of a context that is too long the last part counts, as in lm-eval.
  Json longer, last;
  for (int i = 0; i < 100; ++i) longer["context_ids"].push_back(20 + i);
  for (int i = 38; i < 100; ++i) last["context_ids"].push_back(20 + i);
  longer["continuation_ids"] = last["continuation_ids"] = {7, 8, 9};
  const Outcome outcome = score(longer.dump() + "\n" + last.dump() + "\n");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const size_t line_end = outcome.out.find('\n');
  EXPECT_EQ(outcome.out.substr(0, line_end + 1), outcome.out.substr(line_end + 1));
}

TEST_F(WrongRequestsTest, OfEvalAndTokenizers) {
  Train();
  EXPECT_EQ(place_.Run("tokenizer train text.txt --vocab-size 290 --out other.json").exit_code, 0);
  EXPECT_EQ(place_.Run("pack text.txt --tokenizer other.json --out foreign").exit_code, 0);
  const std::string mixed = "its tokens are of another tokenizer";
  ExpectRefused(place_.Run("eval --task ngram=corpus_train:foreign"), 2, mixed);
  ExpectRefused(place_.Run("eval --model run --task perplexity=foreign"), 2, mixed);
  ExpectRefused(place_.Run("train run.yaml --set run.dir=mixed --set data.validation=foreign"), 2,
                mixed);
  EXPECT_FALSE(place_.Exists("mixed"));
  ExpectRefused(place_.Run("eval --model run --task perplexity=corpus_train --task ngram=x"), 2,
                "expected ngram=TRAIN:VALIDATION");
  ExpectRefused(place_.Run("eval --model run --task perplexity="), 2, "expected perplexity=");
  ExpectRefused(place_.Run("eval --model run --task perplexity=corpus_train --limit -3"), 2,
                "--limit -3");
  place_.Write("bad.txt", "abc\xff\xfe def\n");
  ExpectRefused(place_.Run("tokenizer train bad.txt --vocab-size 300 --out x.json"), 3,
                "bad.txt: not UTF-8 at byte 3");
  ExpectRefused(place_.Run("eval --model run --task perplexity=bad.txt"), 3, "not UTF-8 at byte 3");
  ExpectRefused(
      place_.Run("tokenizer train text.txt --vocab-size 300 --pattern cl100 --out x.json"), 2,
      "--pattern cl100: expected gpt2, cl100k");
  ExpectRefused(
      place_.Run("tokenizer train text.txt --vocab-size 300 --min-frequency -3 --out x.json"), 2,
      "--min-frequency -3");
  ExpectRefused(place_.Run("pack text.txt --tokenizer tokenizer.json --out y --end-of-text -1"), 2,
                "--end-of-text -1: expected an id");
  EXPECT_FALSE(place_.Exists("x.json"));
}

// Tokens that nothing is said of: whoever is named tells how many there may be, else the ids do.
TEST_F(WrongRequestsTest, NgramsOfTokensWithoutARecord) {
  Train();
  const auto eval = [&](const std::string& options) {
    const Outcome outcome =
        place_.Run("eval --task ngram=corpus_train:corpus_validation --json " + options);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    const Json report = Json::parse(outcome.out);
    return report["unigram_perplexity"].get<double>();
  };
  const double told = eval("");
  std::filesystem::remove(place_.Path("corpus_train.json"));
  EXPECT_EQ(eval(""), told) << "by the other file";
  std::filesystem::remove(place_.Path("corpus_validation.json"));
  EXPECT_EQ(eval("--tokenizer tokenizer.json"), told);
  EXPECT_EQ(eval("--model run"), told);
  EXPECT_EQ(eval(""), told) << "the last of 300 ids occurs";
  ASSERT_EQ(place_.Run("tokenizer train text.txt --vocab-size 310 --out many.json").exit_code, 0);
  EXPECT_GT(eval("--tokenizer many.json"), told);
  ASSERT_EQ(place_.Run("tokenizer train text.txt --vocab-size 260 --out few.json").exit_code, 0);
  ExpectRefused(place_.Run("eval --task ngram=corpus_train:corpus_validation --tokenizer few.json"),
                3, "but the vocabulary has 260");
}

TEST_F(WrongRequestsTest, BytesOfAPerplexityAreThoseOfTheText) {
  Train();
  place_.Write("three.jsonl", "{\"text\": \"abcd\"}\n{\"text\": \"efgh\"}\n{\"text\": \"ijkl\"}\n");
  const Outcome outcome = place_.Run("eval --model run --task perplexity=three.jsonl --json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  // All but the first token, which may be more than one byte; separators are no text.
  const Json report = Json::parse(outcome.out);
  EXPECT_GE(report["bytes"], 8);
  EXPECT_LE(report["bytes"], 11);
}

TEST_F(WrongRequestsTest, OfTrain) {
  MakeTokens();
  ExpectRefused(place_.Run("train run.yaml --set data.train=[]"), 2,
                "--set data.train=[]: data.train: not set: expected a list of TOKENS");
  ExpectRefused(place_.Run("train run.yaml --set threads=100000"), 2, "threads: 100000");
  place_.Write("tiny.txt", "a");
  ASSERT_EQ(place_.Run("pack tiny.txt --tokenizer tokenizer.json --out tiny").exit_code, 0);
  ExpectRefused(place_.Run("train run.yaml --set data.validation=tiny --set "
                           "validation.every_steps=2"),
                3, "tiny.bin: 2 tokens are not enough for one sample");
  ExpectRefused(place_.Run("train run.yaml --set optimizer.learning_rate=1"), 2,
                "did you mean lr?");
  ExpectRefused(place_.Run("train run.yaml --set device=gpu"), 2, "did you mean cuda?");
  EXPECT_FALSE(place_.Exists("run"));
}

TEST_F(WrongRequestsTest, ATableLosesNoText) {
  place_.Write("a.csv", "id,text\n1,one\n2,two, three\n");
  ExpectRefused(place_.Run("clean a.csv --out a.jsonl"), 3,
                "a.csv:3: a row of 3 columns, the header has 2; a text with commas needs quotes");
  place_.Write("a.tsv", "text\tid\none\ttwo\t3\n");
  ExpectRefused(place_.Run("clean a.tsv --out a.jsonl"), 3, "a text must not have tabs");
  EXPECT_FALSE(place_.Exists("a.jsonl"));
}

TEST_F(WrongRequestsTest, ConfigShowsTheModelThatARunStartsFrom) {
  Train();
  const Outcome outcome =
      place_.Run("config run.yaml --set model= --set model.from=run --set run.dir=tuned --json");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Json::parse(outcome.out)["model"]["hidden_size"], 32);
  ExpectRefused(place_.Run("config run.yaml --set model= --set model.from=nowhere"), 3, "nowhere");
  for (const char* command : {"config", "plan", "train"}) {
    ExpectRefused(place_.Run(std::string(command) +
                             " run.yaml --set run.dir=tuned --set model= --set model.from=run "
                             "--set model.model_type=gpt2"),
                  2,
                  "--set model.model_type=gpt2: model.model_type: gpt2: expected llama, as in "
                  "model.from, or no such key");
  }
  ExpectRefused(place_.Run("config run.yaml --set run.dir=tuned --set model.from=run --set "
                           "model.vocab_size=400"),
                2, "model.vocab_size: 400: expected 300, as in model.from, or no such key");
}

TEST_F(WrongRequestsTest, ChangedKeysSayWhereTheyWereChanged) {
  Train();
  ExpectRefused(place_.Run("train run.yaml --set optimizer.lr=0.5"), 2,
                "--set optimizer.lr=0.5: optimizer.lr: 0.5, but the run's checkpoint has 0.001; a "
                "changed run needs a new run.dir");
  std::string yaml = place_.Read("run.yaml");
  yaml.replace(yaml.find("seed: 3"), 7, "seed: 4");
  place_.Write("other.yaml", yaml);
  ExpectRefused(place_.Run("train other.yaml"), 2,
                "other.yaml:15: run.seed: 4, but the run's checkpoint has 3");
}

TEST_F(WrongRequestsTest, DropoutIsWarnedOfAndTheRunGoesOn) {
  MakeTokens();
  const Outcome outcome = place_.Run("train run.yaml --set model.attention_dropout=0.1");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err,
              testing::StartsWith("trireme train: --set model.attention_dropout=0.1: "
                                  "model.attention_dropout: 0.1: dropout is not built yet; the "
                                  "run trains without it\n"));
}

TEST_F(WrongRequestsTest, ATokenizerGoesWithAnExport) {
  Train();
  std::filesystem::remove(place_.Path("run/tokenizer.json"));
  ASSERT_EQ(place_.Run("export --model run --out bare").exit_code, 0);
  EXPECT_FALSE(place_.Exists("bare/tokenizer.json"));
  ASSERT_EQ(place_.Run("export --model run --out whole --tokenizer tokenizer.json").exit_code, 0);
  EXPECT_EQ(place_.Run("generate --model whole --prompt The --max-tokens 2").exit_code, 0);
  EXPECT_TRUE(place_.Exists("whole/tokenizer_config.json"));
  EXPECT_EQ(place_.Run("tokenizer train text.txt --vocab-size 310 --out large.json").exit_code, 0);
  ExpectRefused(place_.Run("export --model run --out other --tokenizer large.json"), 2,
                "the model's vocabulary has 300");
  EXPECT_FALSE(place_.Exists("other"));
}

TEST_F(WrongRequestsTest, AScheduleThatDoesNotFitIsToldBeforeAnythingStarts) {
  MakeTokens();
  place_.Write("one.csv", "0F0,0B0,0F1,0B1,0F2,0B2,0F3,0B3\n");
  ExpectRefused(place_.Run("train run.yaml --set layout.pipeline=2 --set "
                           "layout.pipeline_schedule=one.csv"),
                2,
                "--set layout.pipeline_schedule=one.csv: layout.pipeline_schedule: one.csv: 1 "
                "stages and 4 microbatches: expected 2 stages and 4 microbatches a data rank");
  EXPECT_FALSE(place_.Exists("run"));
}

// A preset's special ids are those of its own vocabulary.
TEST_F(WrongRequestsTest, APresetSpeaksTheTokenizersIds) {
  MakeTokens();
  const std::string shape =
      " --set model= --set model.preset=gpt2-124m --set model.vocab_size=300 --set "
      "model.hidden_size=32 --set model.num_hidden_layers=1 --set model.num_attention_heads=2 "
      "--set model.max_position_embeddings=64";
  const Outcome outcome = place_.Run("train run.yaml" + shape);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const Json config = Json::parse(place_.Run("config run/config.yaml --json").out);
  EXPECT_LT(config["model"]["eos_token_id"], 300);
  EXPECT_GE(config["model"]["eos_token_id"], 0);
  EXPECT_EQ(place_.Run("train run.yaml --set lr_schedule.steps=5" + shape).exit_code, 0);
}

// A signal that is there before the run is: the workers learn of the stop from the coordinator and
// do not knock at a port that is closed.
TEST_F(WrongRequestsTest, AStopBeforeTheBeginning) {
  MakeTokens();
  const std::string blocked = "env --block-signal=TERM sh -c 'kill -TERM $$; exec \"$0\" \"$@\"'";
  const Outcome outcome = place_.Run("train run.yaml", blocked);
  EXPECT_EQ(outcome.exit_code, 75);
  EXPECT_THAT(outcome.err, HasSubstr("stopped by SIGTERM"));
  std::string logs;
  for (const auto& entry : std::filesystem::directory_iterator(place_.Path("run/log"))) {
    logs += place_.Read(std::filesystem::relative(entry.path(), place_.Path("")));
  }
  EXPECT_THAT(logs, HasSubstr("worker 1: stopped by SIGTERM")) << logs;
  EXPECT_EQ(place_.Run("train run.yaml").exit_code, 0);
}

// Where a run began may be gone once it has checkpoints of its own.
TEST_F(WrongRequestsTest, AFineTunedRunGoesOnWithoutItsOrigin) {
  Train();
  const std::string all = place_.Read("run.yaml");
  place_.Write("tuned.yaml", "model: {from: run}\n" + all.substr(all.find("data:\n")));
  ASSERT_EQ(place_.Run("train tuned.yaml --set run.dir=tuned").exit_code, 0);
  ExpectRefused(place_.Run("train tuned.yaml --set run.dir=tuned --set model.from=run@2 --set "
                           "lr_schedule.steps=6"),
                2, "model.from: run@2, but the run's checkpoint began from run@4");
  for (const char* same : {"./run", "run@4", "run/../run/checkpoints"}) {
    const Outcome outcome =
        place_.Run(std::string("train tuned.yaml --set run.dir=tuned --set model.from=") + same);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  std::filesystem::rename(place_.Path("run"), place_.Path("moved"));
  const Outcome outcome =
      place_.Run("train tuned.yaml --set run.dir=tuned --set lr_schedule.steps=6");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(place_.Exists("tuned/checkpoints/step_00000006/manifest.json"));
}

// auto takes powers of two alone.
TEST_F(WrongRequestsTest, ALayoutThatTheLeavesHinderNamesThoseThatDoNot) {
  MakeTokens();
  const std::string three = "train run.yaml --set layout.data=3 --set batch.sequences=6";
  ExpectRefused(place_.Run(three), 2,
                "--set layout.data=3: layout.data: 3: expected at most batch.sum_leaves (2), which "
                "divides the 6 microbatches of a step (batch.sequences 6 / microbatch_sequences "
                "1); batch.sum_leaves=3 allows it in a new run");
  EXPECT_EQ(place_.Run(three + " --set batch.sum_leaves=3").exit_code, 0);
}

TEST_F(WrongRequestsTest, OfSteps) {
  Train();
  ExpectRefused(place_.Run("generate --model run@3 --prompt The"), 4,
                "run@3: there is no checkpoint of step 3; there are 2, 4");
  ExpectRefused(place_.Run("generate --model text.txt@3 --prompt The"), 2,
                "text.txt is a file and has no steps");
  for (const std::string step : {"x", "", "-3", "3.5", "99999999999999999999"}) {
    const std::string message = "run@" + step + ": expected a step behind the @, as in run@50";
    ExpectRefused(place_.Run("generate --model run@" + step + " --prompt The"), 2, message);
    ExpectRefused(place_.Run("checkpoint show run@" + step), 2, message);
    ExpectRefused(place_.Run("checkpoint list run@" + step), 2, message);
  }
}

TEST_F(WrongRequestsTest, CleanDoesNotReadWhatItWrites) {
  place_.Write("texts/a.txt", "The first text of the two that are here.\n");
  place_.Write("texts/b.txt", "And quite another one, which is the second.\n");
  for (int round = 0; round < 2; ++round) {
    const Outcome outcome = place_.Run("clean texts --out texts/clean.jsonl --json");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    EXPECT_EQ(Lines(outcome.out), 1);
    EXPECT_EQ(Json::parse(outcome.out)["input"]["documents"], 2);
  }
}

TEST_F(WrongRequestsTest, CleanDoesNotWriteOverWhatItReads) {
  const std::string line = "{\"text\": \"The only text of all that there is here.\"}\n";
  place_.Write("x.jsonl", line);
  place_.Write("y.jsonl", line);
  std::filesystem::create_symlink("x.jsonl", place_.Path("link.jsonl"));
  for (const char* arguments :
       {"x.jsonl --out x.jsonl", "y.jsonl x.jsonl --out ./x.jsonl", "link.jsonl --out x.jsonl"}) {
    ExpectRefused(place_.Run(std::string("clean ") + arguments), 2,
                  "x.jsonl: is also read: expected a file that is none of the texts");
  }
  ExpectRefused(place_.Run("clean x.jsonl --out link.jsonl"), 2, "--out link.jsonl: is also read");
  EXPECT_EQ(place_.Read("x.jsonl"), line);
  EXPECT_EQ(place_.Run("clean y.jsonl --out x.jsonl").exit_code, 0) << "another file is replaced";
}

TEST_F(WrongRequestsTest, NumbersThatAreTooLargeNameTheRange) {
  MakeTokens();
  const std::string large = "99999999999999999999";
  const std::string range = large +
                            ": expected a whole number from -9223372036854775808 to "
                            "9223372036854775807";
  ExpectRefused(place_.Run("generate --model x --prompt a --max-tokens " + large), 2, range);
  ExpectRefused(place_.Run("generate --model x --prompt a --threads 99999999999"), 2,
                "99999999999: expected a whole number from -2147483648 to 2147483647");
  ExpectRefused(place_.Run("generate --model x --prompt a --seed " + large), 2,
                large + ": expected a whole number from 0 to 18446744073709551615");
  for (const char* seed : {"--seed -5", "--seed=-5"}) {
    ExpectRefused(place_.Run(std::string("generate --model x --prompt a ") + seed), 2,
                  "-5: expected a whole number from 0 to 18446744073709551615");
  }
  ExpectRefused(place_.Run("train run.yaml --set lr_schedule.steps=" + large), 2, range);
  ExpectRefused(place_.Run("train run.yaml --set run.seed=" + large), 2,
                large + ": expected a whole number from 0 to 18446744073709551615");
  ExpectRefused(place_.Run("train run.yaml --set batch.sum_leaves=" + large), 2,
                large + ": expected a divisor of the 4 microbatches");
  ExpectRefused(place_.Run("clean text.txt --out x.jsonl --min-characters -5"), 2,
                "--min-characters -5: expected 0 or more");
  ExpectRefused(place_.Run("clean text.txt --out x.jsonl --max-characters -5"), 2,
                "--max-characters -5: expected 0 or more");
  const std::string least = "clean text.txt --out x.jsonl --min-characters 10 --max-characters ";
  ExpectRefused(place_.Run(least + "9"), 2,
                "--min-characters 10: expected at most --max-characters (9)");
  EXPECT_EQ(place_.Run(least + "0").exit_code, 0) << "any number";
}

TEST_F(WrongRequestsTest, TokensArePackedUnderTheNameThatTheyAreReadBy) {
  MakeTokens();
  for (const char* name : {"one", "one.bin", "one.idx"}) {
    const std::string out = std::string("pack text.txt --tokenizer tokenizer.json --out ") + name;
    ASSERT_EQ(place_.Run(out).exit_code, 0);
    for (const char* part : {"one.bin", "one.idx", "one.json", "one.tokenizer.json"}) {
      EXPECT_TRUE(std::filesystem::remove(place_.Path(part))) << part << " of " << name;
    }
  }
  ExpectRefused(place_.Run("pack text.txt --tokenizer tokenizer.json --out ./.bin"), 2,
                "--out ./.bin: expected a name before .bin");
}

TEST_F(WrongRequestsTest, OfWords) {
  ExpectRefused(place_.Run("tokenizer encod --tokenizer x"), 2,
                "encod: not expected here; did you mean encode? (see trireme tokenizer --help)");
  ExpectRefused(place_.Run("generate --model run --prompt a --max-token 3"), 2,
                "--max-token: not expected here; did you mean --max-tokens? (see trireme generate "
                "--help)");
  ExpectRefused(place_.Run("tokenizer train x --vocab-size 300"), 2,
                "(see trireme tokenizer train --help)");
}

// What cannot be printed is not done.
TEST_F(WrongRequestsTest, AFullOutputIsAnError) {
  for (const char* command : {"doctor --json", "config --presets"}) {
    const Outcome outcome = place_.Run(command, R"(sh -c '"$0" "$@" >/dev/full')");
    ExpectRefused(outcome, 4, "stdout cannot be written");
  }
}

}  // namespace
}  // namespace trireme
