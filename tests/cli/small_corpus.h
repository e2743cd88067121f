// A small corpus and what comes of it, for tests of the program's answers to what is wrong.
#pragma once

#include <gmock/gmock.h>

#include <filesystem>
#include <string>

#include "tests/cli/program.h"

namespace trireme {

inline constexpr char kRun[] = R"(run: {dir: run, seed: 3}
model:
  family: llama
  vocab_size: 300
  hidden_size: 32
  intermediate_size: 64
  num_hidden_layers: 2
  num_attention_heads: 4
  num_key_value_heads: 2
  max_position_embeddings: 64
data:
  train: [{path: corpus_train}]
  validation: [{path: corpus_validation}]
  sequence_length: 32
batch: {sequences: 4, microbatch_sequences: 1}
lr_schedule: {steps: 4}
layout: {data: 1}
checkpoint: {every_steps: 2, keep: 5}
validation: {every_steps: 0, batches: 1}
threads: 1
)";

inline std::string SomeText() {
  std::string text;
  for (int i = 0; i < 400; ++i) {
    text += "The oars of bank " + std::to_string(i % 17) + " pull at stroke " + std::to_string(i) +
            ", and the galley goes on.\n";
  }
  return text;
}

inline void ExpectRefused(const Outcome& outcome, int exit_code, const std::string& message) {
  EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
  EXPECT_EQ(Lines(outcome.err), 1) << outcome.err;
  EXPECT_THAT(outcome.err, testing::HasSubstr(message));
}

// A corpus, its tokenizer and its tokens.
class BadInputTest : public testing::Test {
 protected:
  void MakeTokens() {
    place_.Write("text.txt", SomeText());
    place_.Write("run.yaml", kRun);
    Outcome outcome = place_.Run("tokenizer train text.txt --vocab-size 300 --out tokenizer.json");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    outcome = place_.Run("pack text.txt --tokenizer tokenizer.json --out corpus --validation 0.1");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  void Train() {
    MakeTokens();
    const Outcome outcome = place_.Run("train run.yaml");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
    ASSERT_TRUE(place_.Exists("run/checkpoints/step_00000004/manifest.json"));
  }
  // The first chunk of a checkpoint.
  std::string ChunkOf(const std::string& checkpoint) {
    for (const auto& entry :
         std::filesystem::recursive_directory_iterator(place_.Path(checkpoint))) {
      if (entry.path().extension() == ".safetensors") {
        return std::filesystem::relative(entry.path(), place_.Path(""));
      }
    }
    ADD_FAILURE() << checkpoint << " has no chunk";
    return "";
  }
  void Damage(const std::string& name) {
    std::string bytes = place_.Read(name);
    ASSERT_FALSE(bytes.empty());
    bytes[bytes.size() - 5] ^= 0x40;
    place_.Write(name, bytes);
  }
  Workplace place_;
};

}  // namespace trireme
