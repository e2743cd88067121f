// What does not need a corpus: names, options, reports, runs that cannot be.
#include <gmock/gmock.h>

#include <cctype>
#include <nlohmann/json.hpp>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::AllOf;
using testing::HasSubstr;

std::string SomeRun() {
  return ModelAndData() + R"(
run: {dir: run}
batch: {sequences: 4, microbatch_sequences: 1}
lr_schedule: {steps: 2}
)";
}

TEST(CommandLineTest, WrongWordsAreRefusedOnOneLine) {
  const Workplace place;
  const std::pair<const char*, const char*> cases[] = {
      {"trian run.yaml", "trireme: trian: no such command; did you mean train?"},
      {"serve", "trireme: serve: not built yet"},
      {"", "A subcommand is required"},
      {"config --wrong", "--wrong"},
      {"train", "run_yaml"},
      {"tokenizer train x --vocab-size many --out t.json", "many"},
  };
  for (const auto& [arguments, message] : cases) {
    const Outcome outcome = place.Run(arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments;
    EXPECT_EQ(Lines(outcome.err), 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(message));
    EXPECT_EQ(outcome.out, "");
  }
}

TEST(CommandLineTest, EveryCommandHasHelpWithAnExample) {
  const Workplace place;
  const std::string all = place.Run("--help").out;
  for (const std::string name : {"doctor", "clean", "tokenizer", "pack", "plan", "train", "status",
                                 "eval", "generate", "score", "export", "checkpoint", "config"}) {
    EXPECT_THAT(all, HasSubstr("\n  " + name + " ")) << "is registered";
    const Outcome outcome = place.Run(name + " --help");
    EXPECT_EQ(outcome.exit_code, 0) << name;
    EXPECT_THAT(outcome.out, AllOf(HasSubstr("Example:\n"), HasSubstr("trireme " + name + " ")));
    EXPECT_TRUE(std::islower(outcome.out[0])) << "all are written alike: " << outcome.out;
  }
  // As CLI11 2.3 and 2.4 show a default.
  EXPECT_THAT(place.Run("status --help").out,
              testing::AnyOf(HasSubstr("1000000]=10"), HasSubstr("1000000] [10]")));
  EXPECT_EQ(place.Run("--version").out, "trireme 0.1.0\n");
}

TEST(CommandLineTest, ReportsAreOneJsonObject) {
  const Workplace place;
  place.Write("run.yaml", SomeRun());
  for (const std::string arguments : {"doctor --json", "config --json", "config --presets --json",
                                      "config run.yaml --json", "plan run.yaml --json"}) {
    const Outcome outcome = place.Run(arguments);
    EXPECT_EQ(outcome.exit_code, 0) << arguments << ": " << outcome.err;
    const auto json = nlohmann::json::parse(outcome.out, nullptr, false);
    EXPECT_TRUE(json.is_object()) << arguments << ": " << outcome.out.substr(0, 200);
    EXPECT_EQ(Lines(outcome.out), 1) << arguments;
  }
}

TEST(CommandLineTest, AFilledInRunIsARun) {
  const Workplace place;
  place.Write("run.yaml", SomeRun());
  const Outcome first = place.Run("config run.yaml");
  ASSERT_EQ(first.exit_code, 0) << first.err;
  place.Write("filled.yaml", first.out);
  EXPECT_EQ(place.Run("config filled.yaml").out, first.out);
}

TEST(CommandLineTest, RunsThatCannotBeStartNothing) {
  const Workplace place;
  place.Write("run.yaml", SomeRun());
  const std::pair<const char*, const char*> cases[] = {
      {"none.yaml", "none.yaml: no such file"},
      {"run.yaml --set batch.sequence=8", "did you mean sequences?"},
      {"run.yaml --set layout.tensor=3", "layout.tensor: 3: expected a divisor of"},
      {"run.yaml --set layout.pipeline=3", "layout.pipeline: 3: expected at most"},
      {"run.yaml --set layout.data=8", "layout.data: 8: expected at most"},
      {"run.yaml --set data.sequence_length=65", "data.sequence_length: 65: expected at most"},
      {"run.yaml --set layout.zero=2", "not built yet"},
      {"run.yaml --set optimizer.lr=-1", "expected a number above 0"},
      {"run.yaml --set 'run.dri=two\nlines'", "run.dri"},
      {"run.yaml --set model.family=qwen3", "qwen3: not built yet"},
  };
  for (const auto& [arguments, message] : cases) {
    for (const std::string command : {"train ", "plan ", "config "}) {
      const Outcome outcome = place.Run(command + arguments);
      EXPECT_EQ(outcome.exit_code, 2) << command << arguments;
      EXPECT_EQ(Lines(outcome.err), 1) << outcome.err;
      EXPECT_THAT(outcome.err, HasSubstr(message));
      EXPECT_EQ(outcome.out, "");
    }
  }
  EXPECT_FALSE(place.Exists("run"));
}

}  // namespace
}  // namespace trireme
