// trireme generate: text after a prompt.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <utility>

#include "cli/command.h"
#include "cli/id_list.h"
#include "cli/model_options.h"
#include "cli/run_options.h"
#include "cluster/base/json.h"
#include "worker/inference/generator.h"
#include "worker/model/weight_source.h"
#include "worker/text/byte_stream.h"

namespace trireme {
namespace {

struct GenerateCommand {
  ModelOptions model;
  std::string prompt, prompt_file, prompt_ids;
  bool has_prompt = false, has_prompt_ids = false, has_max_tokens = false;
  GenerationOptions generation;
  bool json = false;
};

Result<std::vector<int32_t>> ReadPrompt(const GenerateCommand& command,
                                        const Tokenizer* tokenizer) {
  if (command.has_prompt_ids) {
    const auto ids = ParseIdList(command.prompt_ids);
    if (!ids.ok()) return ids.status().WithContext("--prompt-ids");
    return ids;
  }
  std::string text = command.prompt;
  if (!command.prompt_file.empty()) {
    std::ifstream in(command.prompt_file, std::ios::binary);
    in.peek();  // a folder opens, and cannot be read
    if (!in.is_open() || in.bad()) {
      return DataLossError(command.prompt_file + ": cannot be read");
    }
    text.assign(std::istreambuf_iterator<char>(in), {});
    text = std::string(WithoutByteOrderMark(text));
  }
  if (tokenizer == nullptr) {
    return InvalidArgumentError(
        "the model brings no tokenizer: name one with --tokenizer, or use --prompt-ids");
  }
  return PromptIds(*tokenizer, text);
}

void PrintJson(const std::vector<int32_t>& prompt, const Generation& result, bool has_text) {
  Json out;
  out["prompt_ids"] = prompt;
  out["ids"] = result.ids;
  out["text"] = has_text ? Json(result.text) : Json(nullptr);
  out["finish_reason"] = result.finish_reason;
  out["logprobs"] = result.logprobs;
  std::cout << DumpJson(out) << "\n";
}

// Everything that can be told before the model is read.
Status CheckOptions(const GenerateCommand& command) {
  constexpr int kBeamsMax = 1024;
  const GenerationOptions& generation = command.generation;
  RETURN_IF_ERROR(CheckSampling(generation.sampling));
  if (generation.tokens_max < 1) {
    return InvalidArgumentError(
        StrCat("--max-tokens ", generation.tokens_max, ": expected at least 1"));
  }
  if (generation.beams < 1 || generation.beams > kBeamsMax) {
    return InvalidArgumentError(
        StrCat("--beams ", generation.beams, ": expected 1 to ", kBeamsMax));
  }
  if (!std::isfinite(generation.length_penalty)) {
    return InvalidArgumentError(
        StrCat("--length-penalty ", generation.length_penalty, ": expected a number"));
  }
  for (const std::string& stop : generation.stop) {
    if (stop.empty()) return InvalidArgumentError("--stop: expected a text that is not empty");
  }
  if (command.prompt_file.empty() && !command.has_prompt && !command.has_prompt_ids) {
    return InvalidArgumentError("no prompt: expected --prompt, --prompt-file or --prompt-ids");
  }
  return OkStatus();
}

// Beams do not sample: what was asked for and does nothing is said.
void TellWithoutEffect(const GenerationOptions& generation) {
  if (generation.beams <= 1) return;
  const SamplingOptions &s = generation.sampling, unset;
  for (const auto& [option, is_set] :
       {std::pair("--temperature", s.temperature != 0 && s.temperature != unset.temperature),
        {"--top-k", s.top_k != unset.top_k},
        {"--top-p", s.top_p != unset.top_p},
        {"--min-p", s.min_p != unset.min_p},
        {"--repetition-penalty", s.repetition_penalty != unset.repetition_penalty},
        {"--seed", s.seed != unset.seed}}) {
    if (!is_set) continue;
    std::cerr << "trireme generate: " << option << " has no effect with --beams "
              << generation.beams << "\n";
  }
}

Status RunGenerate(GenerateCommand command) {
  RETURN_IF_ERROR(CheckOptions(command));
  TellWithoutEffect(command.generation);
  ASSIGN_OR_RETURN(const auto model, OpenModel("generate", command.model));
  ASSIGN_OR_RETURN(const auto tokenizer, OpenTokenizer(command.model, *model));
  ASSIGN_OR_RETURN(const std::vector<int32_t> prompt, ReadPrompt(command, tokenizer.get()));
  if (tokenizer == nullptr && !command.generation.stop.empty()) {
    return InvalidArgumentError("--stop needs a tokenizer: name one with --tokenizer");
  }
  if (!command.has_max_tokens) {  // the default is as many as there is room for
    const int64_t room = model->shape().max_positions - static_cast<int64_t>(prompt.size());
    command.generation.tokens_max = std::clamp<int64_t>(room, 1, command.generation.tokens_max);
  }
  command.generation.end_ids = model->source().end_ids();
  if (tokenizer != nullptr && tokenizer->end_of_text()) {
    command.generation.end_ids.push_back(*tokenizer->end_of_text());
  }
  if (!command.json) {
    command.generation.on_text = [](const std::string& text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
  }
  ASSIGN_OR_RETURN(const Generation result,
                   Generate(model.get(), tokenizer.get(), prompt, command.generation));
  if (command.json) {
    PrintJson(prompt, result, tokenizer != nullptr);
    return OkStatus();
  }
  if (tokenizer == nullptr) {
    for (size_t i = 0; i < result.ids.size(); ++i) std::cout << (i ? " " : "") << result.ids[i];
  }
  std::cout << std::endl;
  return OkStatus();
}

std::function<Status()> SetUpGenerate(CommandLine& line) {
  auto command = std::make_shared<GenerateCommand>();
  AddModelOptions(line, &command->model);
  SamplingOptions& sampling = command->generation.sampling;
  const CommandOption prompt =
      line.Add("--prompt", command->prompt, "text to continue; may be empty");
  CommandOption file = line.Add("--prompt-file", command->prompt_file, "a file that holds it");
  CommandOption ids = line.Add("--prompt-ids", command->prompt_ids, "token ids: 1,2,3");
  file.Excludes(prompt).Excludes(ids);
  ids.Excludes(prompt);
  CommandOption tokens = line.Add("--max-tokens", command->generation.tokens_max,
                                  "new tokens, at most; fewer by default where the model's "
                                  "positions end");
  tokens.ShowDefault();
  line.Flag("--ignore-eos", command->generation.ignore_end, "go on past the end token");
  line.Add("--seed", sampling.seed, "of the sampler's random numbers").ShowDefault();
  line.Add("--temperature", sampling.temperature, "0: greedy").ShowDefault();
  line.Add("--top-k", sampling.top_k, "0: all").ShowDefault();
  line.Add("--top-p", sampling.top_p, "keep the fewest tokens whose probabilities reach it")
      .ShowDefault();
  line.Add("--min-p", sampling.min_p, "keep tokens with so much of the largest probability")
      .ShowDefault();
  line.Add("--repetition-penalty", sampling.repetition_penalty, "above 1: less of what was seen")
      .ShowDefault();
  line.Add("--beams", command->generation.beams, "above 1: beam search").ShowDefault();
  line.Add("--length-penalty", command->generation.length_penalty, "of beam search").ShowDefault();
  line.Add("--stop", command->generation.stop, "end before this text; repeatable").OneValueEach();
  AddJsonOption(line, &command->json);
  return [command, prompt, ids, tokens] {
    command->has_max_tokens = tokens.count() > 0;
    command->has_prompt = prompt.count() > 0;
    command->has_prompt_ids = ids.count() > 0;
    return RunGenerate(*command);
  };
}

const RegisterCommand kGenerateCommand({"generate",
                                        "text after a prompt: greedy, sampled, by beams",
                                        "trireme generate --model runs/demo --prompt \"The\" "
                                        "--max-tokens 100 --temperature 0",
                                        SetUpGenerate});

}  // namespace
}  // namespace trireme
