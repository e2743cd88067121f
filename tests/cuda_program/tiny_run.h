// A run small enough for the SIMT backend, and its corpus.
#pragma once

#include <string>

#include "tests/cli/program.h"

namespace trireme {

// All of run.yaml but what a test is about.
inline constexpr char kTinyRun[] = R"(model:
  family: llama
  vocab_size: 260
  hidden_size: 16
  intermediate_size: 32
  num_hidden_layers: 2
  num_attention_heads: 2
  num_key_value_heads: 1
  max_position_embeddings: 32
data:
  train: [{path: corpus_train}]
  validation: [{path: corpus_validation}]
  sequence_length: 16
)";

// Makes tok.json, corpus_train and corpus_validation of so many lines, and run.yaml of kTinyRun and
// `rest`.
inline void MakeTinyRun(const Workplace& place, int lines, const std::string& rest) {
  std::string text;
  for (int i = 0; i < lines; ++i) {
    text += "The oars of bank " + std::to_string(i % 17) + " pull, and the galley goes on.\n";
  }
  place.Write("text.txt", text);
  place.Write("run.yaml", kTinyRun + rest);
  for (const char* command : {"tokenizer train text.txt --vocab-size 260 --out tok.json",
                              "pack text.txt --tokenizer tok.json --out corpus --validation 0.1"}) {
    const Outcome outcome = place.Run(command);
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
}

}  // namespace trireme
