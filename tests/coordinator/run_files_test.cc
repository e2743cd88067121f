// What the coordinator writes into run.dir, and what is read back from it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cluster/base/checksum.h"
#include "coordinator/journal.h"
#include "coordinator/line_file.h"
#include "coordinator/progress_line.h"
#include "coordinator/run_lock.h"
#include "coordinator/run_records.h"
#include "coordinator/run_status.h"
#include "coordinator/tensorboard.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class RunFilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    dir_ = StrCat(::testing::TempDir(), "/run_files_", getpid(), "_", test->name());
    std::filesystem::create_directories(dir_ + "/journal");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string Read(const std::string& name) const {
    std::ifstream file(dir_ + "/" + name);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(dir_ + "/" + name) << text;
  }

  std::string dir_;
};

TEST_F(RunFilesTest, JournalsComeBackAndSurviveATornTail) {
  {
    Journal journal;
    ASSERT_TRUE(journal.Open(dir_).ok());
    journal.Write({"start", 1, 0, "two \"workers\"", {}});
    journal.Write({"committed", 1, 1, "all", {}});
    journal.Write({"checkpoint", 1, 1, "verified", {}});
    journal.Write({"verdict", 1, 1, "lost rank 2", 5});
  }
  const std::string whole = Read("journal/journal.log");
  for (size_t cut = whole.size() - 1; cut > whole.rfind('\n', whole.size() - 2) + 1; --cut) {
    Write("journal/journal.log", whole.substr(0, cut));
    const auto records = ReadJournal(dir_);
    ASSERT_TRUE(records.ok()) << records.status().message();
    // The last line counts once its checksum fits, with or without its line end.
    ASSERT_EQ(records->size(), cut == whole.size() - 1 ? 4u : 3u) << "cut at " << cut;
  }
  Write("journal/journal.log", whole.substr(0, whole.size() - 5));
  {
    Journal journal;
    ASSERT_TRUE(journal.Open(dir_).ok());
    journal.Write({"start", 2, 1, "again", {}});
  }
  const auto records = ReadJournal(dir_);
  ASSERT_TRUE(records.ok()) << records.status().message();
  ASSERT_EQ(records->size(), 4u);
  EXPECT_EQ((*records)[0].reason, "two \"workers\"");
  const JournalSummary summary = Summarize(*records);
  EXPECT_EQ(summary.generation, 2u);
  EXPECT_EQ(summary.committed_step, 1);
  EXPECT_THAT(summary.checkpoints, ElementsAre(1));
  EXPECT_FALSE(summary.verdict.has_value());
}

TEST_F(RunFilesTest, AJournalDamagedInItsMiddleIsRefusedWithItsLine) {
  Journal journal;
  ASSERT_TRUE(journal.Open(dir_).ok());
  for (int i = 0; i < 3; ++i) journal.Write({"committed", 1, i, "all", {}});
  std::string text = Read("journal/journal.log");
  text[text.find('\n') + 30] ^= 1;
  Write("journal/journal.log", text);
  const auto records = ReadJournal(dir_);
  EXPECT_EQ(records.status().code(), StatusCode::kDataLoss);
  EXPECT_THAT(records.status().message(), HasSubstr("line 2 is damaged"));
}

TEST_F(RunFilesTest, JournalLinesThatAreNoRecordsAreDamagedWhateverTheirChecksum) {
  Write("journal/journal.log", "not even a checksum\n");
  EXPECT_THAT(ReadJournal(dir_).status().message(), HasSubstr("line 1 is damaged")) << "and last";
  for (const std::string text :
       {R"({"kind":3,"generation":1,"step":0,"reason":""})",
        R"({"kind":"start","generation":"a","step":0,"reason":""})",
        R"({"kind":"start","generation":1,"step":18446744073709551615,"reason":""})",
        R"({"kind":"start","generation":1,"step":[0],"reason":""})",
        R"({"kind":"start","generation":1,"step":0,"reason":null})", R"({"kind":"start"})"}) {
    const std::string line = ChecksumHex(Checksum64(std::string_view(text))) + " " + text + "\n";
    Write("journal/journal.log", EncodeJournalRecord({"start", 1, 0, "", {}}) + "\n" + line);
    const auto records = ReadJournal(dir_);
    EXPECT_EQ(records.status().code(), StatusCode::kDataLoss) << text;
    EXPECT_THAT(records.status().message(), HasSubstr("line 2 is damaged")) << text;
    EXPECT_EQ(ReadRunStatus(dir_, 5).status().code(), StatusCode::kDataLoss) << text;
  }
}

TEST_F(RunFilesTest, TheVerdictIsThatOfTheLastGeneration) {
  EXPECT_FALSE(ReadVerdict(dir_)->has_value());
  Journal journal;
  ASSERT_TRUE(journal.Open(dir_).ok());
  journal.Write({"start", 1, 0, "", {}});
  journal.Write({"verdict", 1, 7, "lost", 5});
  EXPECT_EQ((*ReadVerdict(dir_))->exit_code, 5);
  journal.Write({"start", 2, 7, "", {}});
  EXPECT_FALSE(ReadVerdict(dir_)->has_value());
  journal.Write({"verdict", 2, 9, "done", 0});
  EXPECT_EQ((*ReadVerdict(dir_))->exit_code, 0);
}

TEST_F(RunFilesTest, MetricsLinesHaveTheirKeysInOrder) {
  StepMetrics step{3, 2.5, 0.75, 1e-3, 3072, 250, 4096, 0.5, 1000, 2};
  EXPECT_EQ(MetricsLine(step),
            R"({"step":3,"loss":2.5,"grad_norm":0.75,"lr":0.001,"tokens":3072,"step_ms":250.0,)"
            R"("tokens_per_second":4096.0,"mfu":0.5,"memory_bytes_max":1000,"generation":2})");
  step.mfu.reset();
  step.loss = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THAT(MetricsLine(step), HasSubstr(R"("loss":null)"));
  EXPECT_THAT(MetricsLine(step), HasSubstr(R"("mfu":null)"));
  const auto line = nlohmann::json::parse(MetricsLine(ValidationMetrics{4, 2.0}));
  EXPECT_EQ(line["step"], 4);
  EXPECT_EQ(line["validation_loss"], 2.0);
  EXPECT_EQ(line["validation_perplexity"], std::exp(2.0));
}

TEST_F(RunFilesTest, EventsNameTimeMembersAndPlaces) {
  Event event{2, "start", 5};
  event.reason = "4 workers";
  const Mesh mesh(2, 2, 1);
  event.members.push_back({3, 77, "a", "worker", 2, mesh.PointOf(2)});
  event.members.push_back({4, 78, "a", "spare", -1, {}});
  const auto json = nlohmann::json::parse(EventLine(event, 1.7e9));
  EXPECT_EQ(json["time"], "2023-11-14T22:13:20.000Z");
  EXPECT_EQ(json["kind"], "start");
  EXPECT_EQ(json["members"][0]["pid"], 77);
  EXPECT_EQ(json["members"][0]["place"]["data"], 1);
  EXPECT_EQ(json["members"][0]["place"]["tensor"], 0);
  EXPECT_EQ(json["members"][1]["role"], "spare");
  EXPECT_TRUE(json["members"][1]["place"].is_null());
  EXPECT_FALSE(json.contains("exit_code"));
}

TEST_F(RunFilesTest, ResumingCutsTheLinesAboveTheRestoredStep) {
  std::string text = MetricsLine(ValidationMetrics{0, 3}) + "\n";
  for (int64_t step = 1; step <= 5; ++step) {
    StepMetrics metrics;
    metrics.step = step;
    metrics.tokens = step * 100;
    text += MetricsLine(metrics) + "\n";
    if (step % 2 == 0) text += MetricsLine(ValidationMetrics{step, 2}) + "\n";
  }
  Write("metrics.jsonl", text + "{\"step\": 6, \"lo");
  auto so_far = CutMetrics(dir_, 4);
  ASSERT_TRUE(so_far.ok()) << so_far.status().message();
  EXPECT_TRUE(so_far->validated_last);
  EXPECT_EQ(Read("metrics.jsonl"), text.substr(0, text.find("{\"step\":5")));
  so_far = CutMetrics(dir_, 3);
  EXPECT_FALSE(so_far->validated_last);
  EXPECT_TRUE(CutMetrics(dir_, 0)->validated_last);
  EXPECT_EQ(Read("metrics.jsonl"), MetricsLine(ValidationMetrics{0, 3}) + "\n");
}

TEST_F(RunFilesTest, DamagedMetricsAreCutWhereverTheyStand) {
  const std::string first = R"({"step":1,"loss":2.0,"tokens":100})";
  const std::string second = R"({"step":2,"loss":1.0,"tokens":200})";
  for (const char* damaged :
       {R"({"step":2,"tokens":"a"})", R"({"step":2,"tokens":2.5})", R"({"step":"2","tokens":5})",
        R"({"step":null})", R"({"step":18446744073709551615})", R"([1])", "3", "", "{\"step\":2"}) {
    Write("metrics.jsonl", first + "\n" + damaged + "\n" + second + "\n");
    const auto so_far = CutMetrics(dir_, 2);
    ASSERT_TRUE(so_far.ok()) << so_far.status().message();
    EXPECT_EQ(Read("metrics.jsonl"), first + "\n" + second + "\n") << damaged;
  }
}

TEST_F(RunFilesTest, NoMetricsAreNoError) {
  const auto so_far = CutMetrics(dir_ + "/elsewhere", 4);
  ASSERT_TRUE(so_far.ok());
  EXPECT_FALSE(so_far->validated_last);
}

TEST_F(RunFilesTest, ATornLastLineIsCutBeforeAppending) {
  Write("lines", "one\ntwo\nthree was being written");
  LineFile file;
  ASSERT_TRUE(file.Open(dir_ + "/lines").ok());
  file.Append("three");
  EXPECT_EQ(Read("lines"), "one\ntwo\nthree\n");
}

TEST_F(RunFilesTest, AFullDiskKeepsTheLinesInMemory) {
  testing::internal::CaptureStderr();
  {
    LineFile file;
    ASSERT_TRUE(file.Open("/dev/full").ok());
    file.Append("lost nowhere");
    file.Append("nor this");
  }
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("trireme: /dev/full: No space left on device; its lines wait"));
  EXPECT_THAT(said, HasSubstr("trireme: /dev/full: 2 lines are lost\n"));
}

TEST_F(RunFilesTest, OneCoordinatorAtATime) {
  auto first = RunLock::Take(dir_);
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(RunLock::Held(dir_));
  const auto second = RunLock::Take(dir_);
  EXPECT_EQ(second.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(second.status().message(), HasSubstr("is being trained by another process"));
  first->reset();
  EXPECT_FALSE(RunLock::Held(dir_));
  EXPECT_TRUE(RunLock::Take(dir_).ok());
}

TEST_F(RunFilesTest, StatusReadsARunDuringAndAfter) {
  EXPECT_EQ(ReadRunStatus(dir_, 5).status().code(), StatusCode::kInvalidArgument);
  Journal journal;
  ASSERT_TRUE(journal.Open(dir_).ok());
  journal.Write({"start", 3, 10, "go", {}});
  journal.Write({"committed", 3, 11, "all", {}});
  journal.Write({"checkpoint", 3, 10, "verified", {}});
  Event start{3, "start", 10};
  start.members.push_back({1, 77, "a", "worker", 0, {}});
  Event other{3, "checkpoint_saved", 10};
  Write("events.jsonl",
        EventLine(start, 1) + "\n" + EventLine(other, 2) + "\n" + EventLine(other, 3) + "\n");
  StepMetrics step;
  step.step = 11;
  step.loss = 4.5;
  Write("metrics.jsonl", MetricsLine(step) + "\n");
  EXPECT_EQ(ReadRunStatus(dir_, 2)->state, "died");
  auto lock = RunLock::Take(dir_);
  auto status = ReadRunStatus(dir_, 2);
  ASSERT_TRUE(status.ok()) << status.status().message();
  EXPECT_EQ(status->state, "running");
  const auto json = nlohmann::json::parse(RunStatusJson(*status));
  EXPECT_EQ(json["step"], 11);
  EXPECT_EQ(json["metrics"]["loss"], 4.5);
  EXPECT_EQ(json["members"][0]["pid"], 77);
  EXPECT_EQ(json["events"].size(), 2u);
  EXPECT_TRUE(json["verdict"].is_null());
  lock->reset();
  journal.Write({"verdict", 3, 11, "lost rank 1", 5});
  status = ReadRunStatus(dir_, 2);
  EXPECT_EQ(status->state, "failed");
  EXPECT_THAT(RunStatusText(*status), HasSubstr("verdict: exit code 5, lost rank 1"));
  EXPECT_THAT(RunStatusText(*status), HasSubstr("loss 4.5000"));
}

TEST_F(RunFilesTest, StatusPassesOverDamagedLines) {
  Write("journal/journal.log", EncodeJournalRecord({"start", 1, 0, "", {}}) + "\n");
  const std::string good =
      R"({"time":"noon","kind":"start","step":7,"reason":"go","members":[{"rank":1,"pid":77}]})";
  for (const char* damaged :
       {R"({"kind":3})", R"({"kind":null})", R"({"step":1})", R"({"kind":"start","members":3})",
        R"({"kind":"spike","time":1,"step":"a","reason":[]})", R"(["kind"])", R"({"kind":)"}) {
    Write("events.jsonl", good + "\n" + damaged + "\n");
    const auto status = ReadRunStatus(dir_, 5);
    ASSERT_TRUE(status.ok()) << damaged;
    EXPECT_THAT(RunStatusText(*status), HasSubstr("noon  start  step 7  go\n")) << damaged;
    EXPECT_EQ(nlohmann::json::parse(RunStatusJson(*status))["members"][0]["pid"], 77) << damaged;
  }
  for (const char* members : {"[3]", "[[]]", R"([{"rank":"a","host":2,"place":[1]}])"}) {
    Write("events.jsonl", StrCat(R"({"kind":"start","members":)", members, "}\n"));
    EXPECT_THAT(RunStatusText(*ReadRunStatus(dir_, 5)), HasSubstr("rank -1  -  -  pid 0\n"));
  }
  Write("metrics.jsonl", R"({"step":"a","loss":[1]})"
                         "\n{\"validation_loss\":{}}\n3\n");
  EXPECT_THAT(RunStatusText(*ReadRunStatus(dir_, 5)), HasSubstr("loss -, - tokens/s"));
}

TEST(TensorBoardTest, ChecksumsAreCastagnolis) {
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
}

TEST(TensorBoardTest, RecordsAreFramedAsTensorFlowFramesThem) {
  // tf.io.TFRecordWriter on b"abc".
  const std::string record = TfRecord("abc");
  const std::string length("\x03\0\0\0\0\0\0\0", 8);
  ASSERT_EQ(record.size(), 8 + 4 + 3 + 4u);
  EXPECT_EQ(record.substr(0, 8), length);
  const uint32_t crc = Crc32c("abc");
  const uint32_t masked = ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
  uint32_t stored = 0;
  for (int i = 3; i >= 0; --i) {
    stored = stored << 8 | static_cast<unsigned char>(record[15 + static_cast<size_t>(i)]);
  }
  EXPECT_EQ(stored, masked);
}

TEST(TensorBoardTest, ScalarsAreEventMessages) {
  // Event{wall_time: 1.5, step: 300, summary{value{tag: "a", simple_value: 2}}}.
  const std::string expected(
      "\x09\0\0\0\0\0\0\xf8\x3f"
      "\x10\xac\x02"
      "\x2a\x0a\x0a\x08\x0a\x01"
      "a\x15\0\0\0\x40",
      24);
  EXPECT_EQ(ScalarEvent(1.5, 300, {{"a", 2.0}}), expected);
}

TEST(ProgressTest, SaysWhereTheRunIs) {
  StepMetrics metrics;
  metrics.step = 50;
  metrics.loss = 5.12345;
  metrics.tokens_per_second = 12345.4;
  EXPECT_EQ(ProgressText(metrics, 200, -1), "step 50/200  loss 5.1235  12,345 tokens/s");
  metrics.mfu = 0.413;
  EXPECT_EQ(ProgressText(metrics, 200, 125),
            "step 50/200  loss 5.1235  12,345 tokens/s  41 % of peak  2 min 05 s left");
  EXPECT_EQ(DurationText(3720), "1 h 02 min");
}

std::string Drawn(bool terminal) {
  char* text = nullptr;
  size_t size = 0;
  FILE* out = open_memstream(&text, &size);
  ProgressLine line(out, terminal, 100);
  StepMetrics metrics;
  for (metrics.step = 1; metrics.step <= 100; ++metrics.step) {
    line.Step(metrics, metrics.step * 250'000);
    if (metrics.step == 50) line.Say("a line that stays");
  }
  fclose(out);
  std::string drawn(text, size);
  free(text);
  return drawn;
}

TEST(ProgressTest, PlainLinesComeEveryFewSeconds) {
  const std::string text = Drawn(false);
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 7);  // 6 of the progress, one said
  EXPECT_THAT(text, HasSubstr("step 100/100"));
  EXPECT_THAT(text, HasSubstr("  20 s left"));
}

TEST(ProgressTest, ATerminalHasOneLine) {
  const std::string text = Drawn(true);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);  // the line said, and the last
  EXPECT_THAT(text, HasSubstr("\r\033[Ka line that stays\n"));
}

}  // namespace
}  // namespace trireme
