// A corpus and a model small enough for tests of the whole program.
#pragma once

#include <gmock/gmock.h>

#include <filesystem>
#include <string>

#include "tests/cli/program.h"

namespace trireme {

struct SmallModel {
  int vocabulary = 300, hidden = 32, intermediate = 64, layers = 2, heads = 4, key_heads = 2;
  int positions = 64, length = 32;  // of a sequence
};

// The sections `model` and `data` of a run.yaml, on the tokens of MakeSmallCorpus.
inline std::string ModelAndData(const SmallModel& m = {}) {
  const auto line = [](const char* key, int value) {
    return "  " + std::string(key) + ": " + std::to_string(value) + "\n";
  };
  return "model:\n  family: llama\n" + line("vocab_size", m.vocabulary) +
         line("hidden_size", m.hidden) + line("intermediate_size", m.intermediate) +
         line("num_hidden_layers", m.layers) + line("num_attention_heads", m.heads) +
         line("num_key_value_heads", m.key_heads) + line("max_position_embeddings", m.positions) +
         "data:\n  train: [{path: corpus_train}]\n  validation: [{path: corpus_validation}]\n" +
         line("sequence_length", m.length);
}

// Makes text.txt of so many lines, tokenizer.json, corpus_train and corpus_validation.
inline void MakeSmallCorpus(const Workplace& place, int lines = 400, int vocabulary = 300) {
  std::string text;
  for (int i = 0; i < lines; ++i) {
    text += "The oars of bank " + std::to_string(i % 17) + " pull at stroke " + std::to_string(i) +
            ", and the galley goes on.\n";
  }
  place.Write("text.txt", text);
  for (const std::string& command :
       {"tokenizer train text.txt --vocab-size " + std::to_string(vocabulary) +
            " --out tokenizer.json",
        std::string("pack text.txt --tokenizer tokenizer.json --out corpus --validation 0.1")}) {
    const Outcome outcome = place.Run(command);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
}

inline void ExpectRefused(const Outcome& outcome, int exit_code, const std::string& message) {
  EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
  EXPECT_EQ(Lines(outcome.err), 1) << outcome.err;
  EXPECT_THAT(outcome.err, testing::HasSubstr(message));
}

// A run of four steps in `run`, on a small corpus.
class SmallRunTest : public testing::Test {
 protected:
  static constexpr char kRest[] = R"(
run: {dir: run, seed: 3}
batch: {sequences: 4, microbatch_sequences: 1}
lr_schedule: {steps: 4}
checkpoint: {every_steps: 2, keep: 5}
validation: {every_steps: 0, batches: 1}
threads: 1
)";
  void MakeTokens() {
    MakeSmallCorpus(place_);
    place_.Write("run.yaml", ModelAndData() + kRest);
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
