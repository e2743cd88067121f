// Every run file that is handed out trains, on token files made where it looks for them.
#include <regex>
#include <set>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

class ExamplesTest : public SmallRunTest {
 protected:
  // What `pack` is told to write so that both paths of the file are there.
  static std::set<std::string> Corpora(const std::string& yaml) {
    static const std::regex kPath(R"(path: (\S+)_(train|validation)\})");
    std::set<std::string> corpora;
    for (std::sregex_iterator at(yaml.begin(), yaml.end(), kPath), end; at != end; ++at) {
      corpora.insert((*at)[1]);
    }
    return corpora;
  }

  // What keeps the work small: short sequences, and where the model is large a narrow one.
  static std::string Smaller(const std::string& name) {
    const std::string shorter = " --set data.sequence_length=64 --set validation.batches=1";
    const std::string narrow =
        " --set model.hidden_size=64 --set model.intermediate_size=128"
        " --set model.num_hidden_layers=2 --set batch.microbatch_sequences=1";
    if (name == "gpt2_124m") {
      return shorter + narrow +
             " --set model.num_attention_heads=4 --set model.vocab_size=1000"
             " --set batch.sequences=8";
    }
    if (name == "llama_30m") return shorter + narrow + " --set batch.sequences=4";
    return shorter;
  }
};

TEST_F(ExamplesTest, EachTrainsTwoSteps) {
  MakeSmallCorpus(place_);
  int examples = 0;
  for (const auto& entry : std::filesystem::directory_iterator(TRIREME_SOURCE "/examples")) {
    if (entry.path().extension() != ".yaml") continue;
    ++examples;
    const std::string name = entry.path().stem();
    std::filesystem::create_directories(place_.Path("examples"));
    std::filesystem::copy(entry.path(), place_.Path("examples"));
    const std::set<std::string> corpora = Corpora(place_.Read("examples/" + name + ".yaml"));
    ASSERT_EQ(corpora.size(), 1u) << name;
    Outcome outcome = place_.Run(
        "pack text.txt --tokenizer tokenizer.json --validation 0.1 --out " + *corpora.begin());
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    outcome = place_.Run("train examples/" + name +
                         ".yaml --set run.dir=run --set lr_schedule.steps=2 --set "
                         "lr_schedule.warmup_steps=1" +
                         Smaller(name));
    EXPECT_EQ(outcome.exit_code, 0) << name << ": " << outcome.err;
    EXPECT_TRUE(place_.Exists("run/checkpoints/step_00000002/manifest.json")) << name;
    EXPECT_THAT(place_.Read("run/metrics.jsonl"), testing::HasSubstr("validation_loss")) << name;
    std::filesystem::remove_all(place_.Path("run"));
  }
  EXPECT_GE(examples, 4);
}

}  // namespace
}  // namespace trireme
