// Tiny models and comparisons that the parity tests share.
#pragma once

#include <gtest/gtest.h>

#include <cstring>

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

inline void ExpectSameBits(const HarnessResult& a, const HarnessResult& b) {
  ASSERT_TRUE(a.status.ok()) << a.status.message();
  ASSERT_TRUE(b.status.ok()) << b.status.message();
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  ASSERT_EQ(a.state.size(), b.state.size());
  for (const auto& [name, values] : a.state) {
    ASSERT_TRUE(b.state.contains(name)) << name;
    const auto& other = b.state.at(name);
    ASSERT_EQ(values.size(), other.size()) << name;
    EXPECT_EQ(std::memcmp(values.data(), other.data(), values.size() * sizeof(float)), 0) << name;
  }
}

}  // namespace trireme
