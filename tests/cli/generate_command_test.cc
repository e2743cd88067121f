// Generation by the built program, from published weights.
#include <gmock/gmock.h>

#include <cstdlib>

#include "tests/cli/program.h"

namespace trireme {
namespace {

// The text of the 200 greedy tokens after BOS that another implementation put on record.
TEST(GenerateCommandTest, Stories260kTellsTheStoryOnRecord) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  const std::filesystem::path folder =
      std::filesystem::path(shared) / "data" / "weights_stories260k";
  std::ifstream in(folder / "greedy_200_tokens.txt");
  ASSERT_TRUE(in) << folder << ": no record";
  std::string record((std::istreambuf_iterator<char>(in)), {});
  ASSERT_GT(record.size(), 400u);
  const Workplace place;
  for (const char* threads : {"1", "2"}) {
    Outcome outcome =
        place.Run("generate --model " + (folder / "stories260K.bin").string() + " --tokenizer " +
                  (folder / "tok512.bin").string() +
                  " --temperature 0 --max-tokens 200 --prompt \"\" --threads " + threads);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    while (record.ends_with('\n')) record.pop_back();
    while (outcome.out.ends_with('\n')) outcome.out.pop_back();
    EXPECT_EQ(outcome.out, record);
  }
}

}  // namespace
}  // namespace trireme
