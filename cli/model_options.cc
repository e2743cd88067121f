#include "cli/model_options.h"

#include <algorithm>
#include <iostream>
#include <optional>
#include <thread>

#include "cluster/device/gpu_info.h"
#include "worker/model/weight_source.h"

namespace trireme {

void AddModelOptions(CommandLine& line, ModelOptions* options) {
  line.Add("--model", options->model,
           "run folder, checkpoint, Hugging Face folder, llama2.c or llm.c .bin")
      .Required();
  line.Add("--tokenizer", options->tokenizer, "where the model brings none");
  line.Add("--precision", options->precision, "float32 or bfloat16").ShowDefault();
  line.Add("--device", options->device, "auto, cpu, cuda").ShowDefault();
  line.Add("--threads", options->threads, "0: all cores").ShowDefault();
}

namespace {

// `--device`: none for the CPU. The thread is bound to the GPU's NUMA node.
Result<std::optional<Gpu>> ChooseGpu(const std::string& device) {
  if (device == "cpu") return std::optional<Gpu>();
  if (device != "auto" && device != "cuda") {
    return InvalidArgumentError(StrCat("--device ", device, ": expected auto, cpu, cuda"));
  }
  const auto gpus = Gpus();
  if (gpus.ok() && !gpus->empty()) {
    const GpuInfo& gpu = gpus->front();
    if (gpu.numa_node >= 0) BindThreadToNumaNode(gpu.numa_node);
    return std::optional<Gpu>(Gpu{gpu.ordinal});
  }
  if (device == "auto") return std::optional<Gpu>();
  const std::string why = gpus.ok() ? "there is no GPU" : gpus.status().message();
  return InvalidArgumentError(StrCat("--device cuda: ", why, "; expected a GPU, or --device cpu"));
}

}  // namespace

Result<std::unique_ptr<LanguageModel>> OpenModel(const std::string& command,
                                                 const ModelOptions& options) {
  constexpr int kThreadsMax = 4096;
  if (options.threads < 0 || options.threads > kThreadsMax) {
    return InvalidArgumentError(
        StrCat("--threads ", options.threads, ": expected 0 to ", kThreadsMax));
  }
  LanguageModel::Options load;
  if (options.precision == "bfloat16") {
    load.compute = DType::kBF16;
  } else if (options.precision != "float32") {
    return InvalidArgumentError(
        StrCat("--precision ", options.precision, ": expected float32 or bfloat16"));
  }
  ASSIGN_OR_RETURN(load.gpu, ChooseGpu(options.device));
  load.threads = options.threads > 0
                     ? options.threads
                     : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  ASSIGN_OR_RETURN(auto model, LanguageModel::Load(options.model, load));
  TellSetAside(command, model->source().set_aside());
  return model;
}

Result<std::unique_ptr<Tokenizer>> OpenTokenizer(const ModelOptions& options,
                                                 const LanguageModel& model) {
  std::string path = options.tokenizer;
  if (path.empty()) path = model.source().tokenizer_path().value_or("");
  if (path.empty()) return std::unique_ptr<Tokenizer>();
  return LoadTokenizerFor(path, model.shape().vocab_size);
}

Result<std::unique_ptr<Tokenizer>> LoadTokenizerFor(const std::string& path, int64_t vocab_size) {
  ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(path));
  if (tokenizer->vocab_size() > vocab_size) {
    return InvalidArgumentError(StrCat(path, ": ", tokenizer->vocab_size(),
                                       " tokens, but the model's vocabulary has ", vocab_size));
  }
  return tokenizer;
}

void TellSetAside(const std::string& command, const std::vector<std::string>& set_aside) {
  for (const std::string& reason : set_aside) {
    std::cerr << "trireme " << command << ": set aside: " << reason << "\n";
  }
}

}  // namespace trireme
