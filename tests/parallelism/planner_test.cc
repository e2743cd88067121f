#include "parallelism/planner.h"

#include <gtest/gtest.h>

#include "tests/parallelism/toy_world.h"

namespace trireme {
namespace {

ModelFacts ToyFacts(int stages) {
  ModelFacts facts;
  facts.specs = toy::Specs(stages);
  for (int s = 0; s < stages; ++s) {
    StageCosts costs;
    costs.layers_begin = toy::kLayers * s / stages;
    costs.layers_end = toy::kLayers * (s + 1) / stages;
    costs.activation_bytes = 1000 * (costs.layers_end - costs.layers_begin);
    costs.input_bytes = s > 0 ? 120 : 0;
    costs.output_bytes = s + 1 < stages ? 120 : 0;
    costs.flop = 3e6 / stages;
    facts.stages.push_back(costs);
  }
  return facts;
}

PlanRequest Layout(int data, int pipeline, int zero) {
  PlanRequest request;
  request.data = data;
  request.pipeline = pipeline;
  request.zero_level = zero;
  request.microbatches = 16;
  request.leaves = 8;
  return request;
}

int64_t BytesOf(const StagePlan& stage, const std::string& what) {
  for (const MemoryItem& item : stage.memory) {
    if (item.what == what) return item.bytes;
  }
  return 0;
}

TEST(PlannerTest, WorkersAreCheckedWithTheArithmetic) {
  EXPECT_TRUE(CheckWorkers(Layout(2, 4, 0), 8).ok());
  EXPECT_EQ(CheckWorkers(Layout(2, 2, 0), 8).message(),
            "8 workers: expected data 2 x tensor 1 x pipeline 2 x context 1 = 4");
}

// What the store allocates is what was planned, to the byte.
TEST(PlannerTest, StateMemoryIsWhatTheStoreTakes) {
  for (int data : {1, 2, 3, 4}) {
    for (int zero : {0, 1}) {
      for (int pipeline : {1, 2}) {
        const Result<Plan> plan = MakePlan(Layout(data, pipeline, zero), ToyFacts(pipeline), {});
        ASSERT_TRUE(plan.ok()) << plan.status().message();
        std::mutex mutex;
        std::vector<int64_t> most(pipeline);
        toy::OnMesh(Mesh(data, 1, pipeline), nullptr, [&](ProcessGroups* groups) {
          Stream stream(1);
          StoreOptions options;
          options.zero_level = zero;
          options.microbatches = 16;
          options.leaves = 8;
          ShardedParameterStore store(toy::Specs(pipeline), groups, &stream, options);
          std::lock_guard<std::mutex> lock(mutex);
          int64_t& bytes = most[groups->Index(Axis::kPipeline)];
          bytes = std::max(bytes, store.memory_bytes());
        });
        for (const StagePlan& stage : plan->stages) {
          const int64_t planned = BytesOf(stage, "weights") + BytesOf(stage, "optimizer moments") +
                                  BytesOf(stage, "gradient accumulators");
          EXPECT_EQ(planned, most[stage.stage]) << data << zero << pipeline;
        }
      }
    }
  }
}

TEST(PlannerTest, WithoutMastersTheirTwoSlotsAreSaved) {
  PlanRequest request = Layout(1, 1, 0);
  request.types = {DType::kBF16, DType::kF32};
  const StagePlan with = MakePlan(request, ToyFacts(1), {})->stages[0];
  request.types.master = DType::kBF16;
  const StagePlan without = MakePlan(request, ToyFacts(1), {})->stages[0];
  EXPECT_GT(BytesOf(with, "master weights"), 0);
  EXPECT_EQ(BytesOf(without, "master weights"), 0);
  EXPECT_EQ(with.memory_bytes - without.memory_bytes, BytesOf(with, "master weights"));
}

TEST(PlannerTest, BubbleActivationsAndTimeFollowTheSchedule) {
  MachineFacts machine;
  machine.flop_per_second = 1e6;
  PlanRequest request = Layout(1, 4, 0);
  const Plan one = *MakePlan(request, ToyFacts(4), machine);
  EXPECT_NEAR(one.bubble_share, 3.0 / 19.0, 1e-9);
  EXPECT_NEAR(one.step_seconds, 0.75 * 19, 1e-9);  // 16 microbatches and 3 of bubble
  EXPECT_EQ(BytesOf(one.stages[0], "activations"), 4 * 2000);
  EXPECT_EQ(BytesOf(one.stages[3], "activations"), 1 * 2000);
  request.schedule = "gpipe";
  const Plan gpipe = *MakePlan(request, ToyFacts(4), machine);
  EXPECT_EQ(BytesOf(gpipe.stages[3], "activations"), 16 * 2000);
}

// Direct exchange: data ranks send all but their own share, and get the rest.
TEST(PlannerTest, WireBytesAreThoseOfDirectExchange) {
  ModelFacts facts = ToyFacts(1);
  facts.specs.resize(1);
  facts.specs[0].roles = 1;
  facts.specs[0].shape = {64, 10};
  const Plan all_reduce = *MakePlan(Layout(4, 1, 0), facts, {});
  EXPECT_EQ(all_reduce.wires.gradients, 480 * 4 + 160 * 3 * 4);
  const Plan zero = *MakePlan(Layout(4, 1, 1), facts, {});
  EXPECT_EQ(zero.wires.gradients, 480 * 4);
  EXPECT_EQ(zero.wires.weights, 160 * 3 * 4);
  EXPECT_EQ(MakePlan(Layout(1, 1, 0), facts, {})->wires.total(), 0);
}

TEST(PlannerTest, NotesSayWhatASmallerGSavesAndWhatDoesNotFit) {
  ModelFacts facts = ToyFacts(1);
  facts.specs[0].shape = facts.specs[0].published_shape = {1 << 16, 64};
  MachineFacts machine;
  machine.memory_bytes = 100 << 20;
  const Plan plan = *MakePlan(Layout(2, 1, 0), facts, machine);
  EXPECT_FALSE(plan.fits);
  ASSERT_EQ(plan.notes.size(), 2u);
  EXPECT_EQ(plan.notes[0],
            "batch.sum_leaves 8 takes 3 gradient accumulators of 32 MiB a rank; 2 would take 1 and "
            "save 64 MiB (results have the same bits only among runs with the same sum_leaves)");
  EXPECT_EQ(plan.notes[1].rfind("does not fit: a rank needs ", 0), 0u) << plan.notes[1];
  EXPECT_EQ(MakePlan(Layout(3, 1, 0), ToyFacts(1), {})->notes[0],
            "data 3 does not divide 8 leaves: some ranks compute 3, others 2");
}

TEST(PlannerTest, ImpossibleLayoutsAreRefused) {
  EXPECT_EQ(MakePlan(Layout(9, 1, 0), ToyFacts(1), {}).status().message(),
            "layout.data: 9: expected at most 8, the leaves that the sums of a step have "
            "(batch.sum_leaves; 16 microbatches a step)");
  PlanRequest request = Layout(1, 2, 0);
  request.schedule = "zigzag";
  EXPECT_EQ(MakePlan(request, ToyFacts(2), {}).status().code(), StatusCode::kInvalidArgument);
}

TEST(PlannerTest, PlansOfManyLayoutsComeBestFirst) {
  MachineFacts machine;
  machine.flop_per_second = 1e6;
  machine.wire_bytes_per_second = 1e9;
  const auto facts = [](const PlanRequest& layout) -> Result<ModelFacts> {
    if (layout.tensor > 1) return InvalidArgumentError("one head");
    if (layout.pipeline > toy::kLayers) return InvalidArgumentError("more stages than layers");
    return ToyFacts(layout.pipeline);
  };
  const std::vector<Plan> plans = MakePlans(
      Layout(1, 1, 1), 4, facts, [](int) { return 8; }, machine);
  ASSERT_EQ(plans.size(), 3u);  // data x pipeline: 4 x 1, 2 x 2, 1 x 4
  EXPECT_EQ(plans[0].layout.data, 4);
  EXPECT_EQ(plans[2].layout.pipeline, 4);
  EXPECT_LT(plans[0].step_seconds, plans[1].step_seconds);
  // Too little memory for the whole model turns the order around.
  machine.memory_bytes = plans[2].memory_bytes_max;
  const std::vector<Plan> tight = MakePlans(
      Layout(1, 1, 0), 4, facts, [](int) { return 8; }, machine);
  EXPECT_LE(tight[0].memory_bytes_max, tight[1].memory_bytes_max);
}

}  // namespace
}  // namespace trireme
