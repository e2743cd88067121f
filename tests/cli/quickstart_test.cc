// What scripts/quickstart.sh asks about its texts and its model.
#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;

class QuickstartTest : public testing::Test {
 protected:
  // A line of bash with the script's functions, in place of the program.
  Outcome Bash(const std::string& line) {
    place_.Write("line.sh", "set -euo pipefail\n. '" TRIREME_SOURCE
                            "/scripts/quickstart_checks.sh'\n" +
                                line + "\n");
    return place_.Run("", "bash line.sh");
  }
  Workplace place_;
};

TEST_F(QuickstartTest, FoldersWithTheSameLastNameDoNotMix) {
  const Outcome one = Bash("corpus_name '/a/my texts'"), other = Bash("corpus_name '/b/my texts'");
  EXPECT_THAT(one.out, testing::MatchesRegex("quickstart_my_texts_[0-9a-f]{8}\n"));
  EXPECT_NE(one.out, other.out);
  EXPECT_EQ(one.out, Bash("corpus_name '/a/my texts'").out);
}

TEST_F(QuickstartTest, TextsThatChangedAreRefused) {
  place_.Write("texts/a.txt", "one");
  place_.Write("texts/more/b c.txt", "two");
  const std::string check = "check_same_texts texts runs/x_data";
  EXPECT_EQ(Bash(check).exit_code, 0) << "new";
  EXPECT_EQ(Bash(check).exit_code, 0) << "the same";
  place_.Write("texts/more/b c.txt", "three");
  ExpectRefused(Bash(check), 1, "texts: its files are not those that runs/x_data was made of");
  EXPECT_THAT(Bash(check).err, HasSubstr("remove runs/x_data and runs/x to begin again"));
  std::filesystem::remove_all(place_.Path("runs"));
  EXPECT_EQ(Bash(check).exit_code, 0) << "begun again";
  place_.Write("texts/c.txt", "");
  EXPECT_EQ(Bash(check).exit_code, 1) << "a file more";
}

TEST_F(QuickstartTest, AModelThatLearnedTooLittleIsAFailure) {
  EXPECT_EQ(Bash("check_perplexity 199.9 400.0").exit_code, 0);
  for (const char* values : {"200.0 400.0", "350 400", "'' 400", "12 ''", "nan 400", "inf 400"}) {
    ExpectRefused(Bash(std::string("check_perplexity ") + values), 1, "expected below half of the");
  }
  EXPECT_THAT(Bash("check_perplexity 350 400").err,
              HasSubstr("is 350: expected below half of the 400 that counting tokens"));
}

}  // namespace
}  // namespace trireme
