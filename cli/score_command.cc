// trireme score: log-likelihoods of continuations, a line in, a line out.
#include <iostream>

#include "cli/command.h"
#include "cli/id_list.h"
#include "cli/model_options.h"
#include "cluster/base/json.h"
#include "worker/evaluation/scoring.h"

namespace trireme {
namespace {

using Ids = std::vector<int32_t>;

Result<std::pair<Ids, Ids>> ParseRequest(const std::string& line, const Tokenizer* tokenizer) {
  const Json request = ParseJson(line);
  if (!request.is_object()) return DataLossError("expected a JSON object");
  try {
    if (request.contains("context_ids")) {
      ASSIGN_OR_RETURN(Ids context, IdsOfJson(request.at("context_ids"), "context_ids"));
      ASSIGN_OR_RETURN(Ids continuation,
                       IdsOfJson(request.at("continuation_ids"), "continuation_ids"));
      return std::pair(std::move(context), std::move(continuation));
    }
    if (tokenizer == nullptr) {
      return InvalidArgumentError(
          "the model brings no tokenizer: name one with --tokenizer, or send context_ids");
    }
    return EncodePair(*tokenizer, request.at("context").get<std::string>(),
                      request.at("continuation").get<std::string>());
  } catch (const Json::exception&) {
    return DataLossError(
        "expected {\"context\", \"continuation\"} or {\"context_ids\", \"continuation_ids\"}");
  }
}

Status Run(const ModelOptions& options) {
  ASSIGN_OR_RETURN(const auto model, OpenModel("score", options));
  ASSIGN_OR_RETURN(const auto tokenizer, OpenTokenizer(options, *model));
  int64_t number = 0, empty_line = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ++number;
    // Lines out are lines in; only behind the last request there may be empty ones.
    if (line.find_first_not_of(" \t\r") == std::string::npos) {
      if (empty_line == 0) empty_line = number;
      continue;
    }
    if (empty_line > 0) return DataLossError(StrCat("line ", empty_line, ": is empty"));
    const auto request = ParseRequest(line, tokenizer.get());
    if (!request.ok()) return request.status().WithContext(StrCat("line ", number));
    const auto& [context, continuation] = request.value();
    const auto score = ScoreContinuation(model.get(), context, continuation);
    if (!score.ok()) return score.status().WithContext(StrCat("line ", number));
    Json out;
    out["logprob"] = score->logprob;
    out["tokens"] = continuation.size();
    out["greedy"] = score->greedy;
    out["token_logprobs"] = score->token_logprobs;
    std::cout << DumpJson(out) << std::endl;
  }
  return OkStatus();
}

std::function<Status()> SetUp(CommandLine& line) {
  auto options = std::make_shared<ModelOptions>();
  AddModelOptions(line, options.get());
  auto json = std::make_shared<bool>(false);
  line.Flag("--json", *json, "what is printed is JSON in any case");
  return [options, json] { return Run(*options); };
}

const RegisterCommand kCommand(
    {"score", "log-likelihoods of continuations: jsonl on stdin, jsonl on stdout",
     "echo '{\"context\": \"The sea\", \"continuation\": \" is\"}' | trireme score --model "
     "runs/demo",
     SetUp});

}  // namespace
}  // namespace trireme
