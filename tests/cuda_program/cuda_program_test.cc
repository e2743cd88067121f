// Runs with `device: cuda` from end to end. The GPU is the SIMT backend's: its memory crashes a
// program whose host code touches it, so these runs show that none of the program's does.
#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/cuda_program/tiny_run.h"

namespace trireme {
namespace {

using testing::HasSubstr;

constexpr char kShortRun[] = R"(run: {dir: gpu, seed: 3}
batch: {sequences: 4, microbatch_sequences: 1}
lr_schedule: {warmup_steps: 1, steps: 4}
checkpoint: {every_steps: 2, keep: 5}
validation: {every_steps: 2, batches: 2}
device: cuda
)";

class CudaProgramTest : public testing::Test {
 protected:
  void SetUp() override { MakeTinyRun(place_, 200, kShortRun); }
  Outcome Train(const std::string& arguments, const std::string& before = "") {
    return place_.Run("train run.yaml " + arguments, before);
  }
  static std::string Mpirun(int processes) {
    return "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
           "PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
           "timeout 100 " TRIREME_MPIEXEC " --map-by :OVERSUBSCRIBE --bind-to none -n " +
           std::to_string(processes);
  }
  std::string Hash(const std::string& run) {
    const Outcome outcome = place_.Run("checkpoint hash " + run + " --json");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.out;
  }
  std::string Log(const std::string& run) {
    std::string text;
    for (const auto& file : std::filesystem::directory_iterator(place_.Path(run + "/log"))) {
      text += place_.Read(run + "/log/" + file.path().filename().string());
    }
    return text;
  }
  // Of training and of validation, by step.
  std::vector<double> Losses(const std::string& run) {
    std::vector<double> losses;
    std::ifstream in(place_.Path(run + "/metrics.jsonl"));
    for (std::string line; std::getline(in, line);) {
      const auto entry = nlohmann::json::parse(line);
      for (const char* key : {"loss", "validation_loss"}) {
        if (entry.contains(key)) losses.push_back(entry[key]);
      }
    }
    return losses;
  }
  // Rounding alone differs between the devices' kernels.
  void ExpectSameCurve(const std::string& run, const std::string& other) {
    const std::vector<double> a = Losses(run), b = Losses(other);
    ASSERT_EQ(a.size(), b.size());
    ASSERT_GE(a.size(), 4u);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-5) << i;
  }

  Workplace place_;
};

TEST_F(CudaProgramTest, TrainsAsTheCpuDoesInThreadsAndProcesses) {
  Outcome outcome = Train("");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(place_.Read("gpu/config.yaml"), HasSubstr("device: cuda"));
  outcome = Train("--set device=cpu --set run.dir=cpu");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  ExpectSameCurve("gpu", "cpu");
  // Two that share the GPU, in the order of sums of one.
  outcome = Train("--set run.dir=threads --set layout.data=2 --set layout.zero=1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("threads"), Hash("gpu"));
  if (std::string(TRIREME_MPIEXEC).empty()) return;
  outcome = Train("--set run.dir=mpi --set layout.pipeline=2", Mpirun(3));
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("mpi"), Hash("gpu"));
}

// A GPU a worker: NCCL (the fake one) carries all groups of the mesh.
TEST_F(CudaProgramTest, WorkersWithAGpuEachTalkByNccl) {
  ASSERT_EQ(Train("").exit_code, 0);
  const std::string gpus = "env TRIREME_NCCL_LIBRARY='" FAKE_NCCL "' TRIREME_SIMT_DEVICES=";
  Outcome outcome =
      Train("--set run.dir=nccl --set layout.data=2 --set layout.pipeline=2", gpus + "4");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("nccl"), Hash("gpu"));
  EXPECT_THAT(Log("nccl"), HasSubstr("communication by NCCL"));
  // NCCL's own reductions: another order of sums, told in the log.
  outcome = Train("--set run.dir=fast --set layout.data=2 --set layout.tensor=2",
                  gpus + "4 TRIREME_NCCL_SUMS=fast");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(Log("fast"), HasSubstr("its own order: equal bits are not promised"));
  ExpectSameCurve("fast", "gpu");
  // Fewer GPUs than workers: NCCL refuses ranks that share one.
  outcome = Train("--set run.dir=shared --set layout.data=2", gpus + "1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("shared"), Hash("gpu"));
  EXPECT_THAT(Log("shared"), HasSubstr("communication through memory of the host"));
}

TEST_F(CudaProgramTest, ARunGoesOnOnTheOtherDevice) {
  ASSERT_EQ(Train("--set lr_schedule.steps=2 --set lr_schedule.name=constant").exit_code, 0);
  Outcome outcome = Train("--set lr_schedule.name=constant --set device=cpu");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(place_.Read("gpu/events.jsonl"), HasSubstr("device was cuda and is cpu"));
  outcome = Train("--set lr_schedule.name=constant --set lr_schedule.steps=6");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  ASSERT_EQ(Train("--set lr_schedule.name=constant --set lr_schedule.steps=6 --set device=cpu "
                  "--set run.dir=cpu")
                .exit_code,
            0);
  ExpectSameCurve("gpu", "cpu");
}

// bf16 weights go to checkpoints and come back as they are, rounded at random as if nothing had
// been between.
TEST_F(CudaProgramTest, WeightsWithoutMastersGoOnWithTheSameBits) {
  const std::string precision =
      "--set precision.compute=bfloat16 --set precision.master=bfloat16 "
      "--set lr_schedule.name=constant --set run.dir=";
  ASSERT_EQ(Train(precision + "whole").exit_code, 0);
  ASSERT_EQ(Train(precision + "again --set lr_schedule.steps=2").exit_code, 0);
  const Outcome outcome = Train(precision + "again --set layout.data=2 --set layout.zero=1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(Hash("again"), Hash("whole"));
}

TEST_F(CudaProgramTest, AutoTakesTheGpuThatIsThere) {
  const Outcome outcome = Train("--set device=auto --set lr_schedule.steps=1");
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_THAT(place_.Read("gpu/config.yaml"), HasSubstr("device: cuda"));
}

TEST_F(CudaProgramTest, DoctorSaysWhatTheGpusAreAndLack) {
  const std::string two = "env TRIREME_SIMT_DEVICES=2 TRIREME_NCCL_LIBRARY='" FAKE_NCCL "'";
  const Outcome text = place_.Run("doctor", two);
  ASSERT_EQ(text.exit_code, 0) << text.err;
  for (const char* line :
       {"gpu           0: SIMT", "gpu           1: SIMT", "peers", "toolkit",
        "products      the CPU's products", "attention     this build has no cuDNN", "nccl  "}) {
    EXPECT_THAT(text.out, HasSubstr(line));
  }
  EXPECT_THAT(text.out, HasSubstr("attention runs on the program's own kernel"));
  const Outcome outcome = place_.Run("doctor --json", two);
  ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  const auto cuda = nlohmann::json::parse(outcome.out)["cuda"];
  EXPECT_TRUE(cuda["why_not"].is_null());
  ASSERT_EQ(cuda["gpus"].size(), 2u);
  for (int g = 0; g < 2; ++g) {
    EXPECT_EQ(cuda["gpus"][g]["ordinal"], g);
    EXPECT_GT(cuda["gpus"][g]["memory_bytes"].get<int64_t>(), 0);
    EXPECT_EQ(cuda["gpus"][g]["peers"].size(), 2u);
    EXPECT_TRUE(cuda["gpus"][g]["nics"].is_array());
  }
  EXPECT_EQ(cuda["has_nccl"], true);
  EXPECT_EQ(cuda["has_attention"], false);
}

// Ranks with a GPU and ranks without one in one job: refused before anything starts.
TEST_F(CudaProgramTest, MixedMachinesAreRefusedWithOneLine) {
  if (std::string(TRIREME_MPIEXEC).empty()) return;
  place_.Write("mixed.sh",
               "[ \"$OMPI_COMM_WORLD_RANK\" = 2 ] && { shift; exec '" TRIREME_CPU_PROGRAM
               "' \"$@\"; }\nexec \"$@\"\n");
  const Outcome outcome = Train("--set layout.data=2", Mpirun(3) + " sh mixed.sh");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("trireme train: device: cuda: rank 2 on "));
  EXPECT_THAT(outcome.err, HasSubstr("has no GPU: "));
  EXPECT_FALSE(place_.Exists("gpu"));
}

// An error of the device is for good: the process ends at once and says in one line what failed.
TEST_F(CudaProgramTest, AnErrorOfTheDeviceEndsTheProcessWithOneLine) {
  // At several moments: while it makes room, while it loads, in a step.
  for (const char* waits : {"1", "60", "90"}) {
    const Outcome outcome = Train("--fresh --set run.dir=ends" + std::string(waits),
                                  std::string("env TRIREME_SIMT_ERROR=") + waits);
    EXPECT_EQ(outcome.exit_code, 1) << waits;
    const size_t at = outcome.err.find("trireme: GPU 0: an illegal memory access");
    ASSERT_NE(at, std::string::npos) << waits << ": " << outcome.err;
    EXPECT_EQ(Lines(outcome.err.substr(at)), 1) << outcome.err;
    EXPECT_THAT(outcome.err, testing::Not(HasSubstr("***"))) << "a stack trace";
    EXPECT_THAT(outcome.err,
                HasSubstr(std::string(waits) == "1"
                              ? "(zeroing memory)"
                              : "in Copy (TRIREME_CUDA_BLOCKING=1 names exactly one)"));
    EXPECT_THAT(Log("ends" + std::string(waits)), HasSubstr("an illegal memory access"));
  }
  // The run itself is as good as before.
  ASSERT_EQ(Train("").exit_code, 0);
  const Outcome resumed = Train("--set run.dir=ends90");
  EXPECT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(Hash("ends90"), Hash("gpu"));
}

TEST_F(CudaProgramTest, WithoutAGpuOneLineSaysWhy) {
  place_.Write("cpu.sh", "shift; exec '" TRIREME_CPU_PROGRAM "' \"$@\"\n");
  const Outcome outcome = Train("", "sh cpu.sh");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_EQ(Lines(outcome.err), 1) << outcome.err;
  EXPECT_THAT(outcome.err, HasSubstr("device: cuda: rank 1 on "));
  EXPECT_THAT(outcome.err, HasSubstr("has no GPU: "));
  EXPECT_THAT(outcome.err, HasSubstr("expected a GPU for every worker, or device: cpu"));
  EXPECT_FALSE(place_.Exists("gpu"));
}

}  // namespace
}  // namespace trireme
