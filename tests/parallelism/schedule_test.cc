#include "parallelism/schedule.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "cluster/base/rng.h"

namespace trireme {
namespace {

std::string ReadGolden(const std::string& name) {
  const std::string path = StrCat(TRIREME_TESTDATA, "/schedules/", name);
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(ScheduleTest, GeneratorsMatchTheGoldenFiles) {
  EXPECT_EQ(ScheduleToCsv(GPipeSchedule(3, 4)), ReadGolden("gpipe_3x4.csv"));
  EXPECT_EQ(ScheduleToCsv(OneForwardOneBackwardSchedule(4, 6)), ReadGolden("1f1b_4x6.csv"));
  EXPECT_EQ(ScheduleToCsv(OneForwardOneBackwardSchedule(4, 2)), ReadGolden("1f1b_4x2.csv"));
}

TEST(ScheduleTest, ZeroBubbleCsvIsReadAndValid) {
  const Result<Schedule> schedule = ParseSchedule(ReadGolden("zb_h1_3x4.csv"));
  ASSERT_TRUE(schedule.ok()) << schedule.status().message();
  const Status valid = ValidateSchedule(*schedule);
  EXPECT_TRUE(valid.ok()) << valid.message();
  const ScheduleTiming zero = TimeSchedule(*schedule, ScheduleCosts::Uniform(3));
  const ScheduleTiming one =
      TimeSchedule(OneForwardOneBackwardSchedule(3, 4), ScheduleCosts::Uniform(3));
  EXPECT_LT(zero.makespan, one.makespan);
}

TEST(ScheduleTest, GeneratedSchedulesAreValidAndPeaksAreThePapers) {
  for (int stages = 1; stages <= 8; ++stages) {
    for (int microbatches : {1, 2, 3, 7, 8, 16}) {
      const Schedule gpipe = GPipeSchedule(stages, microbatches);
      const Schedule one = OneForwardOneBackwardSchedule(stages, microbatches);
      EXPECT_TRUE(ValidateSchedule(gpipe).ok());
      EXPECT_TRUE(ValidateSchedule(one).ok());
      for (int s = 0; s < stages; ++s) {
        EXPECT_EQ(PeakLiveMicrobatches(gpipe)[s], microbatches);
        EXPECT_EQ(PeakLiveMicrobatches(one)[s], std::min(microbatches, stages - s));
      }
    }
  }
}

// By hand: of 1F1B the last gradients go up without anything coming down any more.
TEST(ScheduleTest, SendsAreUnconfirmedUntilSomethingComesBack) {
  const auto peaks = [](const Schedule& schedule) {
    std::string text;
    for (const UnconfirmedSends& peak : PeakUnconfirmedSends(schedule)) {
      text += StrCat(peak.down, "/", peak.up, " ");
    }
    return text;
  };
  EXPECT_EQ(peaks(GPipeSchedule(3, 4)), "4/0 4/4 0/4 ");
  EXPECT_EQ(peaks(OneForwardOneBackwardSchedule(1, 4)), "0/0 ");
  EXPECT_EQ(peaks(OneForwardOneBackwardSchedule(2, 8)), "2/0 0/2 ");
  EXPECT_EQ(peaks(OneForwardOneBackwardSchedule(4, 16)), "4/0 3/4 2/3 0/2 ");
  // Stage 1 hands back each gradient at once, and stage 0 looks at none before the last is sent.
  const auto late = ParseSchedule(
      "0F0 0F1 0F2 0B0 0B1 0B2\n"
      "1F0 1B0 1F1 1B1 1F2 1B2\n");
  ASSERT_TRUE(late.ok());
  EXPECT_EQ(peaks(*late), "3/0 0/3 ");
}

// Narayanan et al. 2021: the bubble is (p - 1) / m of the ideal time, (p - 1) / (m + p - 1) of all.
TEST(ScheduleTest, BubbleIsThePapers) {
  const ScheduleCosts costs = ScheduleCosts::Uniform(4, 1, 1, 1);
  for (const Schedule& schedule : {GPipeSchedule(4, 16), OneForwardOneBackwardSchedule(4, 16)}) {
    EXPECT_NEAR(TimeSchedule(schedule, costs).bubble_share, 3.0 / 19.0, 1e-12);
  }
  EXPECT_EQ(TimeSchedule(GPipeSchedule(1, 4), ScheduleCosts::Uniform(1)).bubble_share, 0);
}

TEST(ScheduleTest, TextAndCsvAreReadBack) {
  const Schedule schedule = OneForwardOneBackwardSchedule(3, 5);
  EXPECT_EQ(*ParseSchedule(ScheduleToString(schedule)), schedule);
  EXPECT_EQ(*ParseSchedule(ScheduleToCsv(schedule)), schedule);
}

TEST(ScheduleTest, BackwardWithoutAWeightPassIsBoth) {
  const Result<Schedule> schedule = ParseSchedule("0F0,,0B0,0F1, 0B1\r\n\n,,1F0,1B0,1F1,1B1,1W1\n");
  ASSERT_TRUE(schedule.ok()) << schedule.status().message();
  EXPECT_EQ(ScheduleToString(*schedule), "0F0 0B0 0W0 0F1 0B1 0W1\n1F0 1B0 1W0 1F1 1B1 1W1\n");
  EXPECT_TRUE(ValidateSchedule(*schedule).ok());
  EXPECT_TRUE(ParseSchedule("\xef\xbb\xbf"
                            "0F0,0B0\n")
                  .ok())
      << "a mark of UTF-8 before it";
}

std::string ParseError(const std::string& text) {
  const Result<Schedule> schedule = ParseSchedule(text);
  return schedule.ok() ? "" : schedule.status().message();
}

TEST(ScheduleTest, ParserNamesRowColumnAndCell) {
  EXPECT_EQ(ParseError("0F0,0X1\n"),
            "row 1, column 2: '0X1': expected stage, F, B or W, and microbatch, as in 0F1");
  EXPECT_EQ(ParseError("0F0\n1F0,,1F\n"),
            "row 2, column 3: '1F': expected stage, F, B or W, and microbatch, as in 0F1");
  EXPECT_EQ(ParseError("0F0 2F1\n"), "row 1, column 2: '2F1': expected stage 0 in this row");
  EXPECT_EQ(ParseError("0F99999\n"),
            "row 1, column 1: '0F99999': expected a microbatch below 16384");
  EXPECT_EQ(ParseError("0F-1\n"),
            "row 1, column 1: '0F-1': expected stage, F, B or W, and microbatch, as in 0F1");
  EXPECT_EQ(ParseError("\n\n"), "an empty schedule: expected a row a stage");
}

std::string ValidationError(const std::string& text) {
  const Result<Schedule> schedule = ParseSchedule(text);
  CHECK(schedule.ok()) << schedule.status().message();
  return ValidateSchedule(*schedule).message();
}

TEST(ScheduleTest, ValidatorNamesWhatIsWrong) {
  EXPECT_EQ(ValidationError("0F0 0B0 0F1\n"), "row 1: 0B1 is missing");
  EXPECT_EQ(ValidationError("0F0 0F0 0B0\n"), "row 1, column 2: 0F0: the same pass twice");
  EXPECT_EQ(ValidationError("0B0 0F0\n"), "row 1, column 1: 0B0: expected 0F0 before it");
  EXPECT_EQ(ValidationError("0F0 0W0 0B0\n"), "row 1, column 2: 0W0: expected 0B0 before it");
  EXPECT_EQ(ValidationError("0F0 0F1 0B1 0B0\n"),
            "row 1, column 6: 0W0: weight gradients must come in ascending microbatches (the "
            "order of sums), and 0W1 came before");
  EXPECT_EQ(ValidationError("0F0 0F1 0B0 0B1\n1F0 1B0\n"), "row 2: 1F1 is missing");
}

TEST(ScheduleTest, DeadlockIsFoundOnPaper) {
  // Stage 0 wants the gradient of microbatch 0 before it has sent microbatch 1; stage 1 wants to
  // see microbatch 1 first.
  EXPECT_EQ(ValidationError("0F0 0B0 0F1 0B1\n1F1 1F0 1B0 1B1\n"),
            "row 1, column 2: 0B0: deadlock: it waits for 1B0, and stage 1 is stuck before row 2, "
            "column 1: 1F1");
}

TEST(ScheduleTest, MakeScheduleRefusesWhatDoesNotFit) {
  EXPECT_EQ(MakeSchedule("zigzag", 2, 4).status().message(),
            "layout.pipeline_schedule: zigzag: expected gpipe, 1f1b or a readable CSV file");
  const std::string path = StrCat(TRIREME_TESTDATA, "/schedules/1f1b_4x6.csv");
  EXPECT_TRUE(MakeSchedule(path, 4, 6).ok());
  EXPECT_EQ(MakeSchedule(path, 4, 8).status().message(),
            "layout.pipeline_schedule: " + path +
                ": 4 stages and 6 microbatches: expected 4 stages and 8 microbatches a data "
                "rank");
}

// Damaged files end in a schedule or in one line, never in a crash; what is valid plays to its end.
TEST(ScheduleTest, ParserAndValidatorTakeDamagedFiles) {
  const CounterRng rng(7, RngUse::kTest, 0);
  const std::string alphabet = "0123FBW, \n\r\t-x9";
  uint64_t draw = 0;
  int valid = 0;
  for (int round = 0; round < 3000; ++round) {
    const int stages = 1 + static_cast<int>(rng.Below(3, draw++));
    std::string text = ScheduleToCsv(OneForwardOneBackwardSchedule(stages, 3));
    const int edits = static_cast<int>(rng.Below(4, draw++));
    for (int e = 0; e < edits && !text.empty(); ++e) {
      const size_t at = rng.Below(text.size(), draw++);
      switch (rng.Below(3, draw++)) {
        case 0:
          text[at] = alphabet[rng.Below(alphabet.size(), draw++)];
          break;
        case 1:
          text.erase(at, 1 + rng.Below(6, draw++));
          break;
        default:
          text.insert(at, 1, alphabet[rng.Below(alphabet.size(), draw++)]);
      }
    }
    const Result<Schedule> schedule = ParseSchedule(text);
    if (!schedule.ok()) {
      EXPECT_EQ(schedule.status().message().find('\n'), std::string::npos);
      continue;
    }
    if (!ValidateSchedule(*schedule).ok()) continue;
    ++valid;
    EXPECT_GT(TimeSchedule(*schedule, ScheduleCosts::Uniform(schedule->stages)).makespan, 0);
  }
  EXPECT_GT(valid, 300);
}

}  // namespace
}  // namespace trireme
