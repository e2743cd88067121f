#include "parallelism/pipeline_executor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/parallelism/toy_world.h"

namespace trireme {
namespace {

using toy::kTimeout;
using toy::OnMesh;

// Passes numbers down and up, and writes down what it was asked to do.
class RecordingModel final : public StageModel {
 public:
  // rows: of the carries; large ones go another way through the transport than small ones.
  RecordingModel(int stage, int stages, int64_t rows = 3)
      : stage_(stage), stages_(stages), rows_(rows) {}
  CarrySpec InputSpec() const override { return stage_ == 0 ? CarrySpec{} : Two(); }
  CarrySpec OutputSpec() const override { return stage_ == stages_ - 1 ? CarrySpec{} : Two(); }
  void Reserve(int live) override { reserved = live; }
  void Forget(MicrobatchId id) override { log += StrCat("X", id, " "); }
  Status status() const override { return failure; }

  Carry Forward(MicrobatchId id, const Carry& input) override {
    log += StrCat("F", id, " ");
    if (id == fail_at) failure = UnavailableError("the tensor group is gone");
    if (stage_ > 0) Check(input, static_cast<float>(id * 10 + stage_ - 1));
    return stage_ == stages_ - 1 ? Carry{} : Fill(static_cast<float>(id * 10 + stage_));
  }
  Carry BackwardInput(MicrobatchId id, const Carry& gradient, WeightGradients when) override {
    log += StrCat(when == WeightGradients::kWithInput ? "B" : "I", id, " ");
    if (stage_ < stages_ - 1) Check(gradient, static_cast<float>(-id * 10 - stage_ - 1));
    return stage_ == 0 ? Carry{} : Fill(static_cast<float>(-id * 10 - stage_));
  }
  void BackwardWeight(MicrobatchId id) override { log += StrCat("W", id, " "); }

  std::string log;
  int reserved = 0;
  int fail_at = -1;
  Status failure;

 private:
  CarrySpec Two() const {
    return {{{"hidden", DType::kF32, {rows_, 2}}, {"memory", DType::kI32, {5}}}};
  }
  // The same memory every time: the executor must have taken the last value.
  Carry Fill(float value) {
    hidden_.assign(2 * rows_, value);
    memory_.assign(5, static_cast<int32_t>(value));
    return {{{"hidden", Tensor(hidden_.data(), DType::kF32, {rows_, 2})},
             {"memory", Tensor(memory_.data(), DType::kI32, {5})}}};
  }
  void Check(const Carry& carry, float value) const {
    ASSERT_EQ(carry.items.size(), 2u);
    EXPECT_EQ(carry.items[1].name, "memory");
    const float* hidden = carry.items[0].tensor.as<float>();
    EXPECT_EQ(std::count(hidden, hidden + 2 * rows_, value), 2 * rows_) << value;
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(carry.items[1].tensor.as<int32_t>()[i], static_cast<int32_t>(value));
    }
  }

  int stage_, stages_;
  int64_t rows_;
  std::vector<float> hidden_;
  std::vector<int32_t> memory_;
};

PipelineOptions Options(ProcessGroups* groups, Stream* stream, Micros timeout = kTimeout) {
  PipelineOptions options;
  options.pipeline = groups->Along(Axis::kPipeline);
  options.stream = stream;
  options.timeout = timeout;
  return options;
}

TEST(PipelineExecutorTest, RunsTheRowOfItsStage) {
  const std::vector<MicrobatchId> ids = {4, 5, 6, 7};
  std::vector<std::string> logs(3);
  std::vector<int> reserved(3);
  OnMesh(Mesh(1, 1, 3), nullptr, [&](ProcessGroups* groups) {
    Stream stream(1);
    const int stage = groups->rank();
    RecordingModel model(stage, 3);
    PipelineExecutor executor(OneForwardOneBackwardSchedule(3, 4), stage, Options(groups, &stream));
    for (int step = 0; step < 3; ++step) {
      model.log.clear();
      const Status status = executor.RunStep(model, ids);
      EXPECT_TRUE(status.ok()) << status.message();
    }
    logs[stage] = model.log;
    reserved[stage] = model.reserved;
  });
  EXPECT_EQ(logs[0], "F4 F5 F6 B4 F7 B5 B6 B7 ");
  EXPECT_EQ(logs[1], "F4 F5 B4 F6 B5 F7 B6 B7 ");
  EXPECT_EQ(logs[2], "F4 B4 F5 B5 F6 B6 F7 B7 ");
  EXPECT_EQ(reserved, (std::vector<int>{3, 2, 1}));
}

TEST(PipelineExecutorTest, WeightPassesMayComeLater) {
  const std::vector<MicrobatchId> ids = {0, 1};
  std::vector<std::string> logs(2);
  OnMesh(Mesh(1, 1, 2), nullptr, [&](ProcessGroups* groups) {
    Stream stream(1);
    RecordingModel model(groups->rank(), 2);
    const Schedule schedule = *ParseSchedule("0F0,0F1,0B0,0B1,0W0,0W1\n1F0,1B0,1F1,1W0,1B1,1W1\n");
    ASSERT_TRUE(ValidateSchedule(schedule).ok());
    PipelineExecutor executor(schedule, groups->rank(), Options(groups, &stream));
    EXPECT_TRUE(executor.RunStep(model, ids).ok());
    logs[groups->rank()] = model.log;
  });
  EXPECT_EQ(logs[0], "F0 F1 I0 I1 W0 W1 ");
  EXPECT_EQ(logs[1], "F0 I0 F1 W0 B1 ");
}

TEST(PipelineExecutorTest, ValidationRunsForwardAlone) {
  std::vector<MicrobatchId> ids = {0, 1, 2, 3, 4, 5};
  std::vector<std::string> logs(3);
  OnMesh(Mesh(1, 1, 3), nullptr, [&](ProcessGroups* groups) {
    Stream stream(1);
    RecordingModel model(groups->rank(), 3);
    PipelineExecutor executor(GPipeSchedule(3, 2), groups->rank(), Options(groups, &stream));
    EXPECT_TRUE(executor.RunForwardOnly(model, ids).ok());
    logs[groups->rank()] = model.log;
  });
  for (const std::string& log : logs) {
    EXPECT_EQ(log, "F0 X0 F1 X1 F2 X2 F3 X3 F4 X4 F5 X5 ");
  }
}

// Stages run at their own speeds: what is sent ahead must wait untouched, also when the next call
// follows at once.
TEST(PipelineExecutorTest, StepsAndValidationMayFollowAtOnce) {
  std::vector<MicrobatchId> many(12), few = {0, 1, 2, 3};
  std::iota(many.begin(), many.end(), 0);
  OnMesh(Mesh(1, 1, 3), nullptr, [&](ProcessGroups* groups) {
    Stream stream(1);
    RecordingModel model(groups->rank(), 3, 30000);
    PipelineExecutor executor(OneForwardOneBackwardSchedule(3, 4), groups->rank(),
                              Options(groups, &stream));
    for (int step = 0; step < 10; ++step) {
      EXPECT_TRUE(executor.RunForwardOnly(model, many).ok());
      EXPECT_TRUE(executor.RunStep(model, few).ok());
    }
  });
}

TEST(PipelineExecutorTest, PhasesAreNamedForFaultPoints) {
  ProcessGroups groups;
  Stream stream(1);
  RecordingModel model(0, 1);
  PipelineOptions options = Options(&groups, &stream);
  std::string phases;
  options.phase = [&](const char* phase, int microbatch) {
    phases += StrCat(phase, ":", microbatch, " ");
  };
  PipelineExecutor executor(*ParseSchedule("0F0,0F1,0B0,0B1,0W0,0W1\n"), 0, options);
  EXPECT_TRUE(executor.RunStep(model, std::vector<MicrobatchId>{2, 3}).ok());
  EXPECT_EQ(phases,
            "pipeline.forward:2 pipeline.forward:3 pipeline.backward:2 pipeline.backward:3 "
            "pipeline.weight:2 pipeline.weight:3 ");
}

TEST(PipelineExecutorTest, AModelsFailureEndsTheStep) {
  ProcessGroups groups;
  Stream stream(1);
  RecordingModel model(0, 1);
  model.fail_at = 1;
  PipelineExecutor executor(GPipeSchedule(1, 3), 0, Options(&groups, &stream));
  const Status status = executor.RunStep(model, std::vector<MicrobatchId>{0, 1, 2});
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_EQ(status.message(), "pipeline stage 0, 0F1: the tensor group is gone");
  EXPECT_EQ(model.log, "F0 F1 X0 X1 ");
}

TEST(PipelineExecutorTest, ANeighbourThatStaysAwayIsADeadline) {
  OnMesh(Mesh(1, 1, 2), nullptr, [&](ProcessGroups* groups) {
    if (groups->rank() == 1) return;
    Stream stream(1);
    RecordingModel model(0, 2);
    PipelineExecutor executor(GPipeSchedule(2, 3), 0, Options(groups, &stream, 1000));
    const Status status = executor.RunStep(model, std::vector<MicrobatchId>{0, 1, 2});
    EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
    EXPECT_EQ(status.message().rfind("pipeline stage 0, 0B0: ", 0), 0u) << status.message();
    EXPECT_EQ(model.log, "F0 F1 F2 X0 X1 X2 ");
  });
}

// Revoked from another thread while the stage waits for its neighbour.
TEST(PipelineExecutorTest, ARevokedGroupEndsTheStep) {
  OnMesh(Mesh(1, 1, 2), nullptr, [&](ProcessGroups* groups) {
    if (groups->rank() == 0) return;
    Stream stream(1);
    RecordingModel model(1, 2);
    PipelineOptions options = Options(groups, &stream);
    std::thread revoker;
    options.phase = [&](const char* phase, int microbatch) {
      revoker = std::thread([&] { groups->Revoke("rank 0 was lost"); });
    };
    PipelineExecutor executor(GPipeSchedule(2, 3), 1, options);
    const Status status = executor.RunStep(model, std::vector<MicrobatchId>{0, 1, 2});
    revoker.join();
    EXPECT_EQ(status.code(), StatusCode::kUnavailable);
    EXPECT_EQ(status.message().rfind("pipeline stage 1, 1F0: ", 0), 0u) << status.message();
    EXPECT_NE(status.message().find("rank 0 was lost"), std::string::npos) << status.message();
  });
}

}  // namespace
}  // namespace trireme
