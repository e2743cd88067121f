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

}  // namespace trireme
