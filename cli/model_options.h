// Options of commands that run a model, and what they open.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

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

void AddModelOptions(CLI::App& app, ModelOptions* options);

Result<std::unique_ptr<LanguageModel>> OpenModel(const ModelOptions& options);
// The tokenizer named, or the model's own; null when there is neither.
Result<std::unique_ptr<Tokenizer>> OpenTokenizer(const ModelOptions& options,
                                                 const LanguageModel& model);

}  // namespace trireme
