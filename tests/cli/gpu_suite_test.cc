// The GPU suite's run.sh on a machine without a GPU: programs that stand in for those of the bundle
// show what it makes of those that pass, fail, take too long or are not there.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "tests/cli/program.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using Json = nlohmann::json;

class GpuSuiteTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(place_.Path("bin"));
    fs::create_directories(place_.Path("examples"));
    fs::copy_file(TRIREME_SOURCE "/scripts/gpu_suite_run.sh", place_.Path("run.sh"));
    fs::copy(TRIREME_SOURCE "/examples/machines", place_.Path("examples/machines"));
    fs::create_symlink(TRIREME_PROGRAM, place_.Path("bin/trireme"));
    Program("bin/cuda_kernels_gpu_test", "echo all kernels are right");
    Program("tools/nvidia-smi",
            "case \"$*\" in *name*) echo Some GPU ;; *power*) echo '1200, 300.5, 55'; echo "
            "'1410, 310.0, 57'; exec sleep 60 ;; *) echo 1 ;; esac");
  }
  void Program(const std::string& name, const std::string& body) {
    place_.Write(name, "#!/bin/sh\n" + body + "\n");
    fs::permissions(place_.Path(name), fs::perms::owner_all);
  }
  // The exit code of run.sh; its report is then in report_.
  int Run(const std::string& parts, const std::string& environment = "") {
    const std::string command = "cd '" + place_.Path("").string() + "' && env " + environment +
                                " PATH=\"$PWD/tools:$PATH\" PYTHON=none bash run.sh --out report " +
                                parts + " >log 2>&1 </dev/null";
    const int status = std::system(command.c_str());
    report_ = Json::parse(place_.Read("report/report.json"), nullptr, false);
    EXPECT_FALSE(report_.is_discarded()) << place_.Read("report/report.json");
    return WEXITSTATUS(status);
  }
  Json Step(const std::string& name) {
    for (const Json& step : report_["steps"]) {
      if (step["step"] == name) return step;
    }
    ADD_FAILURE() << "no step " << name << "\n" << place_.Read("log");
    return Json::object();
  }

  Workplace place_;
  Json report_;
};

TEST_F(GpuSuiteTest, MeasuredStandsBesideExpectedAndTheGoal) {
  Program("bin/train_benchmark",
          R"(echo a line; echo '{"tokens_per_second_best": 500000.5, "mfu": 0.41, )"
          R"("memory_bytes_max": 123}')");
  EXPECT_EQ(Run("performance"), 0) << place_.Read("log");
  EXPECT_EQ(report_["device"], "Some GPU");
  const Json timed = Step("gpt2-124m");
  EXPECT_EQ(timed["state"], "passed");
  EXPECT_EQ(timed["sm_mhz"], "1200 to 1410");
  EXPECT_EQ(timed["watts"], "300.5 to 310");
  EXPECT_EQ(Step("gpt2-124m, expected")["state"], "passed");
  EXPECT_EQ(Step("llama-2-7b, 4 layers, expected")["state"], "passed");
  EXPECT_EQ(Step("gpt2-124m, torch.compile")["state"], "skipped");
  EXPECT_EQ(Step("kernels")["state"], "skipped");
  const std::string table = place_.Read("report/report.md");
  EXPECT_THAT(table, testing::ContainsRegex("\\| gpt2-124m \\| 500000.5 \\| 0.41 \\| [0-9.]+ \\| - "
                                            "\\| - \\| 554000 \\(45 %\\) \\| 123 \\|"));
}

TEST_F(GpuSuiteTest, WhatFailsOrIsCutOffIsNoPass) {
  Program("tools/compute-sanitizer",
          "case \"$*\" in *racecheck*) exec sleep 30 ;; *initcheck*) exit 1 ;; esac");
  EXPECT_EQ(Run("sanitizer", "TRIREME_PART_SECONDS=16"), 1);
  EXPECT_EQ(Step("memcheck")["state"], "passed");
  EXPECT_EQ(Step("memcheck of training")["state"], "skipped");
  EXPECT_THAT(Step("memcheck of training")["output"],
              HasSubstr("cuda_training_gpu_test is not in the bundle"));
  EXPECT_EQ(Step("racecheck")["state"], "cut off");
  EXPECT_EQ(Step("initcheck")["state"], "failed");
  // Cut off alone is no pass either.
  Program("tools/compute-sanitizer", "case \"$*\" in *racecheck*) exec sleep 30 ;; esac");
  EXPECT_EQ(Run("sanitizer", "TRIREME_PART_SECONDS=16"), 1);
  Program("tools/compute-sanitizer", "exit 0");
  EXPECT_EQ(Run("sanitizer", "TRIREME_PART_SECONDS=16"), 0);
  // Nothing ran: no pass.
  fs::remove(place_.Path("tools/compute-sanitizer"));
  if (std::system("command -v compute-sanitizer >/dev/null") != 0) {
    EXPECT_EQ(Run("sanitizer"), 1);
  }
}

}  // namespace
}  // namespace trireme
