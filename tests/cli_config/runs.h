// A run as users write it, read or refused.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "cli/config_loader.h"
#include "proto/config.pb.h"

namespace trireme {

// A run that is right. Cases change one line of it.
inline constexpr char kRun[] = R"(run: {dir: runs/demo, seed: 7}
model:
  family: llama
  vocab_size: 4096
  hidden_size: 256
  intermediate_size: 704
  num_hidden_layers: 4
  num_attention_heads: 8
  num_key_value_heads: 4
data:
  train: [{path: data/corpus_train}]
  sequence_length: 256
batch: {sequences: 32, microbatch_sequences: 4}
optimizer: {lr: 1.0e-3}
lr_schedule: {name: cosine, warmup_steps: 20, steps: 200}
layout: {data: 2, tensor: 2}
)";

inline proto::Config Load(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  auto config = ParseConfig(yaml, "run.yaml", overrides);
  EXPECT_TRUE(config.ok()) << config.status().message();
  return config.ok() ? **config : proto::Config();
}

inline Status LoadError(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  return ParseConfig(yaml, "run.yaml", overrides).status();
}

}  // namespace trireme
