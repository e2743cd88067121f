// Tiny models, layouts and comparisons that the parity tests share.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/harness/training_harness.h"

namespace trireme {

inline ModelShape TinyLlama() {
  ModelShape shape;
  shape.family = ModelFamily::kLlama;
  shape.vocab_size = 67;  // odd: vocabulary shards differ in size
  shape.hidden_size = 32;
  shape.intermediate_size = 48;
  shape.layers = 4;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 8;
  shape.max_positions = 64;
  return shape;
}

inline ModelShape TinyGpt2() {
  ModelShape shape = TinyLlama();
  shape.family = ModelFamily::kGpt2;
  shape.kv_heads = 4;
  shape.tied = true;
  shape.attention_bias = shape.mlp_bias = true;
  return shape;
}

// Three steps over eight microbatches in eight leaves.
inline HarnessOptions BaseRun(const ModelShape& shape) {
  HarnessOptions options;
  options.shape = shape;
  options.tokens = {2, 12};
  options.leaves = 8;
  options.microbatches = RandomBatches(8, options.tokens, shape.vocab_size, 11);
  options.steps = 3;
  options.clip_norm = 0.5;
  return options;
}

// A model and the types that it computes in and keeps its weights in.
struct ParityModel {
  std::string name;
  ModelShape shape;
  DType compute = DType::kF32;
  DType master = DType::kF32;

  HarnessOptions Run() const {
    HarnessOptions options = BaseRun(shape);
    options.compute = compute;
    options.master = master;
    return options;
  }
};
inline void PrintTo(const ParityModel& model, std::ostream* out) { *out << model.name; }

inline std::vector<ParityModel> ParityModels() {
  return {{"Llama", TinyLlama()},
          {"Gpt2", TinyGpt2()},
          {"LlamaBf16", TinyLlama(), DType::kBF16},
          {"Gpt2NoMasters", TinyGpt2(), DType::kBF16, DType::kBF16}};
}

struct LayoutCase {
  std::string name;
  int data, tensor, pipeline, zero;
  std::string schedule = "1f1b";
  int threads = 1;
  Recompute recompute = Recompute::kNone;
  bool deferred = false;

  int ranks() const { return data * tensor * pipeline; }
};
inline void PrintTo(const LayoutCase& layout, std::ostream* out) { *out << layout.name; }

// Layouts of tensor degree 1: they train to the serial bits.
inline std::vector<LayoutCase> SameBitsLayouts() {
  return {{"data2", 2, 1, 1, 0},
          {"data3", 3, 1, 1, 0},
          {"data4", 4, 1, 1, 0},
          {"data8", 8, 1, 1, 0},
          {"data2_zero1", 2, 1, 1, 1},
          {"data3_zero1", 3, 1, 1, 1},
          {"data4_zero1", 4, 1, 1, 1},
          {"pipeline2", 1, 1, 2, 0},
          {"pipeline4", 1, 1, 4, 0},
          {"pipeline2_gpipe", 1, 1, 2, 0, "gpipe"},
          {"pipeline4_gpipe", 1, 1, 4, 0, "gpipe"},
          {"threads2", 1, 1, 1, 0, "1f1b", 2},
          {"threads3", 1, 1, 1, 0, "1f1b", 3},
          {"selective", 1, 1, 1, 0, "1f1b", 1, Recompute::kSelective},
          {"full", 1, 1, 1, 0, "1f1b", 1, Recompute::kFull},
          {"deferred", 1, 1, 1, 0, "1f1b", 1, Recompute::kNone, true},
          {"deferred_full_pipeline2", 1, 1, 2, 0, "1f1b", 1, Recompute::kFull, true},
          {"data2_selective_threads2", 2, 1, 1, 0, "1f1b", 2, Recompute::kSelective},
          {"data2_pipeline2_zero1", 2, 1, 2, 1},
          {"data4_pipeline2_zero1", 4, 1, 2, 1},
          {"data2_pipeline4_zero1_gpipe_full", 2, 1, 4, 1, "gpipe", 1, Recompute::kFull},
          {"data3_pipeline2_zero1_threads2", 3, 1, 2, 1, "1f1b", 2, Recompute::kSelective}};
}

// Layouts with a tensor degree: they train to the bits of that degree alone, and stay within
// rounding of serial.
inline std::vector<LayoutCase> TensorLayouts() {
  return {{"tensor2", 1, 2, 1, 0},
          {"tensor4", 1, 4, 1, 0},
          {"data2_tensor2_zero1", 2, 2, 1, 1},
          {"tensor2_pipeline2_gpipe", 1, 2, 2, 0, "gpipe"},
          {"data2_tensor2_pipeline2_zero1", 2, 2, 2, 1},
          {"data4_tensor2_zero1_full", 4, 2, 1, 1, "1f1b", 1, Recompute::kFull},
          {"tensor4_pipeline2_deferred_threads2", 1, 4, 2, 0, "1f1b", 2, Recompute::kNone, true}};
}

using ModelAndLayout = std::tuple<ParityModel, LayoutCase>;

inline std::string NameOf(const testing::TestParamInfo<ModelAndLayout>& info) {
  return std::get<0>(info.param).name + "_" + std::get<1>(info.param).name;
}

inline HarnessOptions With(HarnessOptions options, const LayoutCase& layout) {
  options.data = layout.data;
  options.tensor = layout.tensor;
  options.pipeline = layout.pipeline;
  options.zero = layout.zero;
  options.schedule = layout.schedule;
  options.threads = layout.threads;
  options.recompute = layout.recompute;
  options.deferred = layout.deferred;
  return options;
}

// The result of one model at one tensor degree, all else serial. Kept for the next test.
inline const HarnessResult& OfTensorDegree(const ParityModel& model, int tensor) {
  static std::map<std::pair<std::string, int>, HarnessResult> results;
  const auto [at, is_new] = results.try_emplace({model.name, tensor});
  if (is_new) at->second = RunHarness(With(model.Run(), {"", 1, tensor, 1, 0}));
  return at->second;
}

inline void ExpectSameTensors(const HarnessTensors& a, const HarnessTensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, values] : a) {
    ASSERT_TRUE(b.contains(name)) << name;
    const auto& other = b.at(name);
    ASSERT_EQ(values.size(), other.size()) << name;
    EXPECT_EQ(std::memcmp(values.data(), other.data(), values.size() * sizeof(float)), 0) << name;
  }
}

inline void ExpectSameBits(const HarnessResult& a, const HarnessResult& b) {
  ASSERT_TRUE(a.status.ok()) << a.status.message();
  ASSERT_TRUE(b.status.ok()) << b.status.message();
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  ExpectSameTensors(a.state, b.state);
  ExpectSameTensors(a.gradients, b.gradients);
}

// Whether the gradient of element `i` of `count` is zero by algebra: GPT-2's key biases, the middle
// third of q, k, v. Rounding makes a step of Adam of it that does not change the model.
inline bool HasZeroGradient(const std::string& name, size_t i, size_t count) {
  return name.ends_with("attn.c_attn.bias") && i >= count / 3 && i < 2 * count / 3;
}

// The tolerances of the fixtures' README for these families: losses, norms, gradients, and the
// update. `initial`: the state before the first step.
inline void ExpectNear(const HarnessResult& result, const HarnessResult& serial,
                       const HarnessTensors& initial) {
  ASSERT_TRUE(result.status.ok()) << result.status.message();
  ASSERT_EQ(result.losses.size(), serial.losses.size());
  for (size_t step = 0; step < serial.losses.size(); ++step) {
    EXPECT_NEAR(result.losses[step] / serial.losses[step], 1.0, 1e-6);
    EXPECT_NEAR(result.norms[step] / serial.norms[step], 1.0, 2e-6);
  }
  double difference = 0, moved = 0;
  for (const auto& [name, gradient] : serial.gradients) {
    const std::vector<float>& values = serial.state.at(name);
    double largest = 0, worst = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      if (HasZeroGradient(name, i, values.size())) continue;
      largest = std::max(largest, std::abs(double{gradient[i]}));
      worst = std::max(worst, std::abs(double{result.gradients.at(name)[i]} - gradient[i]));
      difference += std::pow(double{result.state.at(name)[i]} - values[i], 2);
      moved += std::pow(double{values[i]} - initial.at(name)[i], 2);
    }
    EXPECT_GT(largest, 0) << name;
    EXPECT_LE(worst / largest, 1e-5) << name;
  }
  EXPECT_LE(std::sqrt(difference / moved), 5e-5);
}

inline HarnessTensors InitialState(const ParityModel& model) {
  HarnessOptions options = model.Run();
  options.steps = 0;
  return RunHarness(options).state;
}

// A GPU's run on layouts along data (with ZeRO 1) and pipeline; their steps are replayed.
inline void ExpectTheBitsOfOneRank(HarnessOptions run) {
  const HarnessResult one = RunHarness(run);
  for (const auto& [data, pipeline] : {std::pair(2, 1), std::pair(1, 2), std::pair(2, 2)}) {
    SCOPED_TRACE(testing::Message() << "data " << data << " pipeline " << pipeline);
    run.data = data;
    run.pipeline = pipeline;
    run.zero = data > 1 ? 1 : 0;
    const HarnessResult layout = RunHarness(run);
    ExpectSameBits(layout, one);
    EXPECT_EQ(layout.replayed, run.steps);
  }
}

}  // namespace trireme
