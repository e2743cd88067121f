// Options of commands that run a model, and what they open.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/command_line.h"
#include "cluster/base/status.h"
#include "worker/inference/language_model.h"
#include "worker/text/tokenizer.h"

namespace trireme {

struct ModelOptions {
  std::string model;
  std::string tokenizer;  // where the model brings none
  std::string precision = "float32";
  std::string device = "auto";
  int threads = 0;  // 0: all cores
};

void AddModelOptions(CommandLine& line, ModelOptions* options);

// `command`: for what users are told meanwhile.
Result<std::unique_ptr<LanguageModel>> OpenModel(const std::string& command,
                                                 const ModelOptions& options);
// The tokenizer named, or the model's own; null when there is neither.
Result<std::unique_ptr<Tokenizer>> OpenTokenizer(const ModelOptions& options,
                                                 const LanguageModel& model);

// The tokenizer of a path. kInvalidArgument when it has more tokens than the model's vocabulary.
Result<std::unique_ptr<Tokenizer>> LoadTokenizerFor(const std::string& path, int64_t vocab_size);

// Says on stderr which checkpoints were passed over (WeightSource::set_aside).
void TellSetAside(const std::string& command, const std::vector<std::string>& set_aside);

}  // namespace trireme
