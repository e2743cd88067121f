// trireme plan, as users run it.
#include <gmock/gmock.h>

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/cli/small_run.h"

namespace trireme {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kRun[] = R"(run: {dir: run}
model: {family: llama, vocab_size: 512, hidden_size: 64, intermediate_size: 96,
        num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 2,
        max_position_embeddings: 64, tie_word_embeddings: true}
data: {train: [{path: corpus_train}], sequence_length: 32}
batch: {sequences: 16, microbatch_sequences: 1}
layout: {data: 2, tensor: 2, zero: 1}
threads: 1
)";

class PlanTest : public testing::Test {
 protected:
  void SetUp() override { place_.Write("run.yaml", kRun); }
  json Plan(const std::string& options) {
    const Outcome outcome = place_.Run("plan run.yaml --json --tflops 0.05 " + options);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return json::parse(outcome.out);
  }
  Workplace place_;
};

TEST_F(PlanTest, SaysWhatTheLayoutCostsAndNeedsNoData) {
  const json plan = Plan("");
  EXPECT_EQ(plan["workers"], 4);
  EXPECT_EQ(plan["sum_leaves"], 8);
  // The tied table once, four layers of projections and two norms, the last norm.
  EXPECT_EQ(plan["parameters"],
            512 * 64 + 4 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96 + 2 * 64) + 64);
  ASSERT_EQ(plan["stages"].size(), 1u);
  const json& stage = plan["stages"][0];
  EXPECT_EQ(stage["updated_parameters"].get<int>() * 2, stage["parameters"].get<int>());
  int64_t sum = 0;
  for (const auto& [what, bytes] : stage["memory"].items()) sum += bytes.get<int64_t>();
  EXPECT_EQ(sum, plan["memory_bytes_max"]);
  EXPECT_GT(plan["wire_bytes"]["tensor"], 0);
  EXPECT_GT(plan["step_seconds"], 0.0);
  EXPECT_TRUE(plan["fits"]);
}

TEST_F(PlanTest, MoreWorkersAreLaidOutBestFirst) {
  const json plan = Plan("--workers 8");
  EXPECT_EQ(plan["workers"], 8);
  EXPECT_GT(plan["other_layouts"].size(), 3u);
  for (const json& other : plan["other_layouts"]) {
    if (!other["fits"]) continue;
    EXPECT_LE(plan["step_seconds"], other["step_seconds"]);
  }
  const Outcome text = place_.Run("plan run.yaml --workers 8");
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("other layouts of 8 workers"));
}

TEST_F(PlanTest, ImpossibleLayoutsAreOneLine) {
  const auto refused = [&](const std::string& options, const std::string& message) {
    const Outcome outcome = place_.Run("plan run.yaml " + options);
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(Lines(outcome.err), 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(message));
  };
  refused("--workers 59", "--workers 59: no layout of the run has so many workers");
  refused("--set layout.tensor=3", "layout.tensor: 3: expected a divisor");
  refused("--set layout.pipeline_schedule=zigzag", "layout.pipeline_schedule: zigzag");
  refused("--memory-gib 0.001", "a worker needs");
}

TEST_F(PlanTest, HostsWithoutAWorkerAreRefused) {
  ExpectRefused(place_.Run("plan run.yaml --hosts 3 --workers 2"), 2,
                "--hosts 3: expected at most the 2 workers that they share");
  ExpectRefused(place_.Run("plan run.yaml --hosts 5"), 2, "expected at most the 4 workers");
  Plan("--hosts 4");
}

TEST_F(PlanTest, WhatDoesNotFitIsToldWithoutMeasuring) {
  const Outcome outcome = place_.Run("plan run.yaml --json --memory-gib 0.001");
  EXPECT_EQ(outcome.exit_code, 2);
  const json plan = json::parse(outcome.out);
  EXPECT_FALSE(plan["fits"]);
  EXPECT_TRUE(plan["step_seconds"].is_null());
  EXPECT_TRUE(plan["tokens_per_second"].is_null());
  EXPECT_GT(plan["memory_bytes_max"], 0);
  EXPECT_THAT(place_.Run("plan run.yaml --workers 8 --memory-gib 0.001").out,
              HasSubstr("other layouts of 8 workers"));
}

// Products as large as this model's own would take minutes.
TEST_F(PlanTest, LargeModelsAreMeasuredInSeconds) {
  const auto start = std::chrono::steady_clock::now();
  const Outcome outcome = place_.Run(
      "plan run.yaml --memory-gib 100000 --set model= --set model.family=llama --set "
      "model.hidden_size=8192 --set model.intermediate_size=28672 --set "
      "model.num_attention_heads=64 --set model.vocab_size=128256 --set "
      "data.sequence_length=2048 --set layout.data=1 --set layout.tensor=1");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "trireme plan: measuring matrix products of the model's sizes here\n");
  EXPECT_THAT(outcome.out, HasSubstr(" GFLOP/s a worker"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

constexpr char kMachine[] = R"(name: a test's machine
peak_tflops: {bfloat16: 40, float32: 20}
memory_gib: 1
memory_gb_per_second: 1000
link_gb_per_second: 100
network_gb_per_second: 10
program_gib: 0.25
reach: {products: 0.5, attention_forward: 0.5, attention_backward: 0.25, memory: 0.8}
)";

TEST_F(PlanTest, GeluIsPartOfItsProductsInBf16) {
  place_.Write("machine.yaml", kMachine);
  const std::string gpt2 =
      "--machine machine.yaml --set layout.data=1 --set layout.tensor=1 --set model.family=gpt2 "
      "--set model.num_key_value_heads=4 ";
  const auto kernels = [&](const std::string& options) {
    std::map<std::string, double> bytes;
    const json plan = Plan(gpt2 + options);
    for (const json& kernel : plan["machine"]["kernels"]) {
      bytes[kernel["kernel"]] = kernel["bytes"];
    }
    return bytes;
  };
  // 64 calls; products of 32 tokens, 64 columns and 96.
  auto f32 = kernels("");
  EXPECT_EQ(f32.at("up forward"), 64 * 4.0 * (32 * (96 + 64) + 96 * 64));
  EXPECT_EQ(f32.at("gelu forward"), 64 * 4.0 * 2 * 32 * 96);
  EXPECT_EQ(f32.at("gelu backward"), 64 * 4.0 * 3 * 32 * 96);
  // The dy of q, k and v, of the attention's output, of both products of the feed-forward.
  EXPECT_EQ(f32.at("bias gradients"), 64 * 4.0 * 32 * (3 * 64 + 64 + 96 + 64));
  // 32 rows of 64 in f32 are read and written, and as many of dx read; of 16 microbatches.
  EXPECT_EQ(f32.at("embedding backward"), 16 * 4.0 * 3 * 32 * 64);
  auto bf16 = kernels("--set precision.compute=bfloat16");
  EXPECT_EQ(bf16.at("up forward"), 64 * 2.0 * (32 * (96 + 64) + 96 * 64 + 32 * 96));
  EXPECT_EQ(bf16.at("down input gradient"), 64 * 2.0 * (32 * (96 + 64) + 96 * 64 + 32 * 96));
  EXPECT_EQ(bf16.at("down forward"), 64 * 2.0 * (32 * (96 + 64) + 96 * 64));
  EXPECT_FALSE(bf16.contains("gelu forward"));
  EXPECT_FALSE(bf16.contains("gelu backward"));
  EXPECT_EQ(
      kernels("--set precision.compute=bfloat16 --set layout.recompute=selective").at("gelu again"),
      64 * 2.0 * 2 * 32 * 96);
}

// Without masters the update neither reads nor writes any, nor a copy for products.
TEST_F(PlanTest, WithoutMastersAnUpdateMovesLess) {
  place_.Write("machine.yaml", kMachine);
  const auto bytes = [&](const std::string& options) -> double {
    const json plan =
        Plan("--machine machine.yaml --set layout.data=1 --set layout.tensor=1 " + options);
    for (const json& kernel : plan["machine"]["kernels"]) {
      if (kernel["kernel"] == "adamw") return kernel["bytes"];
    }
    return 0;
  };
  const double f32 = bytes(""), masters = bytes("--set precision.compute=bfloat16");
  const double rounded = bytes("--set precision.compute=bfloat16 --set precision.master=bfloat16");
  EXPECT_GT(f32, 0);
  EXPECT_DOUBLE_EQ(masters / f32, 30.0 / 28);
  EXPECT_DOUBLE_EQ(rounded / f32, 24.0 / 28);
}

// What operations of a GPU take while they run, and what other ranks contribute to its sums.
TEST_F(PlanTest, AGpuNeedsMemoryForOperationsAndForContributions) {
  place_.Write("machine.yaml", kMachine);
  const auto first = [&](const std::string& options) -> json {
    return Plan("--set precision.compute=bfloat16 --set layout.tensor=1 " + options)["stages"][0];
  };
  const std::string two = "--set layout.data=2 ";
  const json cpu = first(two), gpu = first(two + "--machine machine.yaml");
  const auto more = [&](const char* what) {
    return gpu["memory"].value(what, int64_t{0}) - cpu["memory"].value(what, int64_t{0});
  };
  // Two bytes for each of 4 heads, 32 queries and 32 keys, both padded to 64.
  EXPECT_EQ(more("scratch"), 2 * 4 * 64 * 64);
  // Half of all gradients, once: the other rank has one partial sum.
  const int64_t accumulators = gpu["memory"]["gradient accumulators"];
  EXPECT_EQ(more("communication buffers"), accumulators / gpu["accumulators"].get<int64_t>() / 2);
}

TEST_F(PlanTest, AMachineOfAFileGivesEveryKernelItsRoofline) {
  place_.Write("machine.yaml", kMachine);
  const std::string alone = "--machine machine.yaml --set layout.data=1 --set layout.tensor=1";
  const json plan = Plan(alone);
  const json& machine = plan["machine"];
  double flop = 0, expected = 0;
  std::map<std::string, json> kernels;
  for (const json& kernel : machine["kernels"]) {
    kernels[kernel["kernel"]] = kernel;
    if (kernel["kind"] != "memory") flop += kernel["flop"].get<double>();
    expected += kernel["expected_seconds"].get<double>();
  }
  // 16 microbatches of 32 tokens, 4 layers: y = x w with w of 2 * 96 rows and 64 columns.
  const json& gate = kernels.at("gate and up forward");
  EXPECT_EQ(gate["calls"], 64);
  EXPECT_EQ(gate["flop"], 64 * 2.0 * 32 * 192 * 64);
  EXPECT_EQ(gate["bytes"], 64 * 4.0 * (32 * (192 + 64) + 192 * 64));
  EXPECT_DOUBLE_EQ(gate["roofline_seconds"], gate["bytes"].get<double>() / 1e12)
      << "so small a product is bound by memory";
  EXPECT_DOUBLE_EQ(gate["expected_seconds"], gate["bytes"].get<double>() / 0.8e12);
  // Of heads of 128 and more the attention reaches its own share, and so does the optimizer.
  place_.Write("wide.yaml", std::string(kMachine).replace(std::string(kMachine).find("reach:"), 8,
                                                          "reach: {optimizer: 0.4, "
                                                          "wide_attention_forward: 0.75, "));
  const auto expected_of = [&](const std::string& options, const std::string& name) -> double {
    const json shown = Plan(options);
    for (const json& kernel : shown["machine"]["kernels"]) {
      if (kernel["kernel"] == name) return kernel["expected_seconds"];
    }
    return 0;
  };
  const std::string wide = "--machine wide.yaml --set layout.data=1 --set layout.tensor=1";
  EXPECT_DOUBLE_EQ(expected_of(wide, "adamw"), 2 * expected_of(alone, "adamw"));
  const std::string heads =
      " --set data.sequence_length=1024 --set model.max_position_embeddings=1024 "
      "--set model.hidden_size=384 ";
  const auto faster = [&](const std::string& shape) {
    return expected_of(alone + heads + shape, "attention forward") /
           expected_of(wide + heads + shape, "attention forward");
  };
  EXPECT_DOUBLE_EQ(faster("--set model.num_attention_heads=6"), 1);     // of 64
  EXPECT_DOUBLE_EQ(faster("--set model.num_attention_heads=4"), 1.25);  // of 96: half the way
  EXPECT_DOUBLE_EQ(faster("--set model.num_attention_heads=2 --set model.num_key_value_heads=2"),
                   1.5);  // of 192
  const json& swiglu = kernels.at("swiglu forward");
  EXPECT_EQ(swiglu["bytes"], 64 * 3.0 * 32 * 96 * 4);
  EXPECT_EQ(swiglu["kind"], "memory");
  EXPECT_EQ(kernels.at("adamw")["bytes"], 28.0 * plan["parameters"].get<double>());
  EXPECT_DOUBLE_EQ(machine["expected_seconds"], expected);
  // One worker: the step is its kernels. The planner's own count of FLOP agrees with the table's:
  // 6N and attention, the tied table multiplied once.
  const double tokens = 16 * 32;
  EXPECT_NEAR(plan["step_seconds"].get<double>(), expected, 0.02 * expected);
  const double counted = plan["parameters"].get<double>() - 9 * 64;  // norms multiply nothing
  EXPECT_NEAR(flop, tokens * (6 * counted + 7 * 4 * 64 * 32), 1e-6 * flop);
  EXPECT_NEAR(machine["mfu"].get<double>(),
              (6 * plan["parameters"].get<double>() + 6 * 4 * 64 * 32) *
                  machine["tokens_per_second"].get<double>() / 2e13,
              1e-9);
  EXPECT_EQ(plan["memory_bytes_available"], 1 << 30);
  EXPECT_GE(plan["memory_bytes_max"], 1 << 28) << "the program's own memory is part of it";

  const Outcome text = place_.Run("plan run.yaml " + alone);
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_THAT(text.out, HasSubstr("kernels of a step of one worker, on a test's machine"));
  EXPECT_THAT(text.out, HasSubstr("tokens/s, MFU "));
}

TEST_F(PlanTest, TheMachineOfTheExamplesIsReadAndWorkersShareTheirKernels) {
  const std::string h100 = "--machine " TRIREME_SOURCE "/examples/machines/h100.yaml ";
  const json one = Plan(h100 + "--set layout.data=1 --set layout.tensor=1");
  const json two = Plan(h100 + "--set layout.data=1 --set layout.tensor=2");
  const auto flop = [](const json& plan) {
    double sum = 0;
    for (const json& kernel : plan["machine"]["kernels"]) sum += kernel["flop"].get<double>();
    return sum;
  };
  EXPECT_NEAR(flop(two), flop(one) / 2, 1e-6 * flop(one));
}

TEST_F(PlanTest, AMachineThatSaysNonsenseIsOneLine) {
  const auto refused = [&](const std::string& file, const std::string& message) {
    place_.Write("machine.yaml", file);
    const Outcome outcome = place_.Run("plan run.yaml --machine machine.yaml");
    EXPECT_EQ(outcome.exit_code, 2);
    EXPECT_EQ(Lines(outcome.err), 1) << outcome.err;
    EXPECT_THAT(outcome.err, HasSubstr(message));
  };
  refused("name: x\nspeed: 3\n", "machine.yaml:2: speed: unknown key: expected one of name, ");
  refused("name: x\nmemory_gib: -1\n", "machine.yaml:2: memory_gib: -1: expected a number above 0");
  refused("memory_gib: \"80\"\n", "machine.yaml:1: memory_gib: \"80\": expected a number above 0");
  refused("name: x\nreach: {memory: 1.5}\n", "reach.memory: 1.5: expected a number above 0 and at");
  refused("name: x\n", "peak_tflops: missing");
  refused("name: [x", "machine.yaml:");
  const Outcome outcome = place_.Run("plan run.yaml --machine nowhere.yaml");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("nowhere.yaml: cannot be read"));
}

TEST_F(PlanTest, AScheduleOfTheUsersOwnIsReadFromCsv) {
  place_.Write("good.csv", "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n");
  place_.Write("stuck.csv", "0F0,0B0,0F1,0B1\n1F1,1F0,1B0,1B1\n");
  const std::string layout =
      "--set layout.data=1 --set layout.tensor=1 --set layout.pipeline=2 --set batch.sequences=2 "
      "--set layout.pipeline_schedule=";
  EXPECT_EQ(Plan(layout + "good.csv")["stages"].size(), 2u);
  const Outcome outcome = place_.Run("plan run.yaml " + layout + "stuck.csv");
  EXPECT_EQ(outcome.exit_code, 2);
  EXPECT_THAT(outcome.err, HasSubstr("stuck.csv: row 1, column 2: 0B0: deadlock"));
}

}  // namespace
}  // namespace trireme
