#include "cli/model_options.h"

#include <algorithm>
#include <thread>

#include "worker/model/weight_source.h"

namespace trireme {

void AddModelOptions(CLI::App& app, ModelOptions* options) {
  app.add_option("--model", options->model,
                 "run folder, checkpoint, Hugging Face folder, llama2.c or llm.c .bin")
      ->required();
  app.add_option("--tokenizer", options->tokenizer, "where the model brings none");
  app.add_option("--precision", options->precision, "float32 or bfloat16")->capture_default_str();
  app.add_option("--device", options->device, "auto, cpu, cuda")->capture_default_str();
  app.add_option("--threads", options->threads, "0: all cores")->capture_default_str();
}

Result<std::unique_ptr<LanguageModel>> OpenModel(const ModelOptions& options) {
  LanguageModel::Options load;
  if (options.precision == "bfloat16") {
    load.compute = DType::kBF16;
  } else if (options.precision != "float32") {
    return InvalidArgumentError(
        StrCat("--precision ", options.precision, ": expected float32 or bfloat16"));
  }
  if (options.device == "cuda") return NotBuiltError("--device cuda: this build has no CUDA");
  if (options.device != "auto" && options.device != "cpu") {
    return InvalidArgumentError(StrCat("--device ", options.device, ": expected auto, cpu, cuda"));
  }
  load.threads = options.threads > 0
                     ? options.threads
                     : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  return LanguageModel::Load(options.model, load);
}

Result<std::unique_ptr<Tokenizer>> OpenTokenizer(const ModelOptions& options,
                                                 const LanguageModel& model) {
  std::string path = options.tokenizer;
  if (path.empty()) path = model.source().tokenizer_path().value_or("");
  if (path.empty()) return std::unique_ptr<Tokenizer>();
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(path));
  if (tokenizer->vocab_size() > model.shape().vocab_size) {
    return InvalidArgumentError(StrCat(path, ": ", tokenizer->vocab_size(),
                                       " tokens, but the model's vocabulary has ",
                                       model.shape().vocab_size));
  }
  return tokenizer;
}

}  // namespace trireme
