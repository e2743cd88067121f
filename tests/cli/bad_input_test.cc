// Bad input on the way from text to a model: one clear line, the right exit code, nothing
// half-written.
#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;

class BadInputTest : public SmallRunTest {};

TEST_F(BadInputTest, CorporaThatHoldNothing) {
  place_.Write("empty.txt", "");
  std::filesystem::create_directories(place_.Path("empty_folder"));
  for (const char* corpus : {"none.txt", "empty.txt", "empty_folder"}) {
    const std::string text = corpus;
    for (const std::string& command :
         {"clean " + text + " --out out.jsonl.zst",
          "tokenizer train " + text + " --vocab-size 300 --out out.json"}) {
      const Outcome outcome = place_.Run(command);
      ExpectRefused(outcome, 3, text == "empty.txt" ? "no" : text);
      EXPECT_FALSE(place_.Exists("out.jsonl.zst")) << command;
      EXPECT_FALSE(place_.Exists("out.json")) << command;
    }
  }
}

TEST_F(BadInputTest, TokenFilesThatAreMissingTruncatedOrTooRich) {
  MakeTokens();
  ExpectRefused(place_.Run("train run.yaml --set data.train=nowhere"), 3, "nowhere");
  ExpectRefused(place_.Run("train run.yaml --set model.vocab_size=200"), 2,
                "--set model.vocab_size=200: model.vocab_size: 200: expected at least the 300 "
                "tokens of the tokenizer of corpus_train");
  EXPECT_FALSE(place_.Exists("run"));
  // The same where the files do not say what vocabulary they have.
  const std::string record = place_.Read("corpus_train.json");
  std::filesystem::remove(place_.Path("corpus_train.json"));
  ExpectRefused(place_.Run("train run.yaml --set model.vocab_size=200 --set "
                           "data.validation=corpus_train"),
                2, "but model.vocab_size is 200");
  EXPECT_FALSE(place_.Exists("run"));
  place_.Write("corpus_train.json", record);
  const std::string bytes = place_.Read("corpus_train.bin");
  place_.Write("corpus_train.bin", bytes.substr(0, bytes.size() / 2));
  ExpectRefused(place_.Run("train run.yaml"), 3, "corpus_train");
  EXPECT_FALSE(place_.Exists("run"));
  ExpectRefused(place_.Run("pack text.txt --tokenizer none.json --out other"), 3, "none.json");
  EXPECT_FALSE(place_.Exists("other.bin"));
}

TEST_F(BadInputTest, DamagedCheckpointsGiveWayToOlderOnes) {
  Train();
  Damage(ChunkOf("run/checkpoints/step_00000004"));
  Outcome outcome = place_.Run("checkpoint verify run/checkpoints@4");
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
  outcome = place_.Run("generate --model run --prompt The --max-tokens 2");
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_THAT(outcome.err, testing::StartsWith("trireme generate: set aside: run/checkpoints/"));
  EXPECT_EQ(Lines(outcome.err), 1) << outcome.err;
  // The older one is good: the run goes on from it.
  outcome = place_.Run("train run.yaml --set lr_schedule.steps=5");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("set aside: "));
  EXPECT_THAT(
      place_.Read("run/events.jsonl"),
      testing::AllOf(HasSubstr("\"resume\""), HasSubstr("\"corruption\""),
                     HasSubstr("a checkpoint was set aside: run/checkpoints/step_00000004")));
  for (const std::string step : {"step_00000002", "step_00000004", "step_00000005"}) {
    std::filesystem::remove(place_.Path("run/checkpoints/" + step + "/manifest.json"));
  }
  outcome = place_.Run("generate --model run --prompt The --max-tokens 2");
  EXPECT_EQ(outcome.exit_code, 4) << outcome.err;
}

TEST_F(BadInputTest, WeightsThatAreNotFinite) {
  Train();
  ASSERT_EQ(place_.Run("export --model run --format hf --out hf").exit_code, 0);
  std::string bytes = place_.Read("hf/model.safetensors");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes.data() + bytes.size() - sizeof(nan), &nan, sizeof(nan));
  place_.Write("hf/model.safetensors", bytes);
  ExpectRefused(place_.Run("generate --model hf --prompt The --max-tokens 2"), 3, "finite");
  ExpectRefused(place_.Run("train run.yaml --set run.dir=tuned --set model= --set model.from=hf"),
                3, "finite");
  // Half a file.
  place_.Write("hf/model.safetensors", bytes.substr(0, bytes.size() / 2));
  ExpectRefused(place_.Run("generate --model hf --prompt The --max-tokens 2"), 3,
                "model.safetensors");
}

TEST_F(BadInputTest, ARunOfOtherDataOrModelIsNotContinued) {
  Train();
  for (const std::string key : {"run.seed=4", "optimizer.lr=0.5", "batch.sequences=8",
                                "model.num_hidden_layers=1", "data.sequence_length=16"}) {
    ExpectRefused(place_.Run("train run.yaml --set lr_schedule.steps=6 --set " + key), 2,
                  key.substr(0, key.find('=')));
  }
  ExpectRefused(place_.Run("train run.yaml --fresh"), 2, "run");
  // Other tokens under the same name; the same tokens packed again are welcome.
  const std::string pack = " --tokenizer tokenizer.json --out corpus --validation 0.1";
  place_.Write("other.txt", "Not a galley, " + place_.Read("text.txt"));
  ASSERT_EQ(place_.Run("pack other.txt" + pack).exit_code, 0);
  ExpectRefused(place_.Run("train run.yaml --set lr_schedule.steps=6"), 2,
                "data.train: corpus_train holds other tokens than those that the run's checkpoint");
  ASSERT_EQ(place_.Run("pack text.txt" + pack).exit_code, 0);
  EXPECT_EQ(place_.Run("train run.yaml --set lr_schedule.steps=6").exit_code, 0);
  const Outcome outcome = place_.Run("train run.yaml");
  EXPECT_EQ(outcome.exit_code, 0) << "finished: " << outcome.err;
}

}  // namespace
}  // namespace trireme
