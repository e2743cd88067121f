// trireme score: log-likelihoods of continuations, a line in, a line out.
#include <iostream>

#include "cli/command.h"
#include "cli/model_options.h"
#include "cli/score_request.h"
#include "cluster/base/json.h"
#include "worker/evaluation/scoring.h"

namespace trireme {
namespace {

Status RunScore(const ModelOptions& options) {
  ASSIGN_OR_RETURN(const auto model, OpenModel("score", options));
  ASSIGN_OR_RETURN(const auto tokenizer, OpenTokenizer(options, *model));
  int64_t number = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto request = ParseScoreRequest(line, tokenizer.get());
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

std::function<Status()> SetUpScore(CommandLine& line) {
  auto options = std::make_shared<ModelOptions>();
  AddModelOptions(line, options.get());
  auto json = std::make_shared<bool>(false);
  line.Flag("--json", *json, "what is printed is JSON in any case");
  return [options, json] { return RunScore(*options); };
}

const RegisterCommand kScoreCommand(
    {"score", "log-likelihoods of continuations: jsonl on stdin, jsonl on stdout",
     "echo '{\"context\": \"The sea\", \"continuation\": \" is\"}' | trireme score --model "
     "runs/demo",
     SetUpScore});

}  // namespace
}  // namespace trireme
