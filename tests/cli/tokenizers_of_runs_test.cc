// Whose tokenizer a run speaks: data, model and configuration must mean the same one.
#include "tests/cli/small_run.h"

namespace trireme {
namespace {

class TokenizersOfRunsTest : public SmallRunTest {
 protected:
  // NAME.json of another text, and what it makes of text.txt, in NAME_train.
  void MakeOther(const std::string& name, int vocabulary) {
    std::string text;
    for (int i = 0; i < 400; ++i)
      text += "Quite another vessel, number " + std::to_string(i) + "\n";
    place_.Write("other.txt", text);
    for (const std::string& command :
         {"tokenizer train other.txt --vocab-size " + std::to_string(vocabulary) + " --out " +
              name + ".json",
          "pack text.txt --tokenizer " + name + ".json --out " + name + " --validation 0.1"}) {
      const Outcome outcome = place_.Run(command);
      ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    }
  }
};

TEST_F(TokenizersOfRunsTest, TheNamedOneIsThatOfTheTokens) {
  MakeTokens();
  MakeOther("same_size", 300);
  MakeOther("smaller", 290);
  MakeOther("larger", 310);
  const std::string train = "train run.yaml --set data.tokenizer=";
  ExpectRefused(place_.Run(train + "same_size.json"), 2,
                "--set data.tokenizer=same_size.json: data.tokenizer: same_size.json, which has "
                "hash ");
  ExpectRefused(place_.Run(train + "same_size.json"), 2,
                ": expected the tokenizer of corpus_train.bin, which has ");
  ExpectRefused(place_.Run(train + "smaller.json"), 2,
                "--set data.tokenizer=smaller.json: data.tokenizer: smaller.json, which has 290 "
                "tokens: expected the tokenizer of corpus_train.bin, which has 300");
  ExpectRefused(place_.Run(train + "larger.json"), 2,
                "data.tokenizer: larger.json, which has 310 tokens: expected at most "
                "model.vocab_size (300)");
  ExpectRefused(place_.Run(train + "nowhere.json"), 3, "nowhere.json");
  EXPECT_FALSE(place_.Exists("run"));
  // Tokens that say nothing of their tokenizer take any that fits the model.
  for (const char* name : {"corpus_train.json", "corpus_validation.json"}) {
    std::filesystem::remove(place_.Path(name));
  }
  ExpectRefused(place_.Run(train + "larger.json"), 2, "expected at most model.vocab_size (300)");
  EXPECT_EQ(place_.Run(train + "same_size.json").exit_code, 0);
  EXPECT_TRUE(place_.Exists("run/tokenizer.json"));
}

TEST_F(TokenizersOfRunsTest, AModelIsTunedOnTokensOfItsOwn) {
  Train();
  MakeOther("foreign", 300);
  const std::string tune =
      "train run.yaml --set run.dir=tuned --set model= --set model.from=run --set "
      "data.validation=[] --set data.train=foreign_train";
  ExpectRefused(place_.Run(tune), 2,
                "--set model.from=run: model.from: foreign_train.bin: its tokens are of another "
                "tokenizer (");
  EXPECT_FALSE(place_.Exists("tuned"));
  std::filesystem::remove(place_.Path("run/tokenizer.json"));  // nothing to compare
  EXPECT_EQ(place_.Run(tune).exit_code, 0);
}

}  // namespace
}  // namespace trireme
