#include "cli/score_request.h"

#include "cli/id_list.h"
#include "cluster/base/json.h"
#include "worker/evaluation/scoring.h"

namespace trireme {

using Ids = std::vector<int32_t>;

Result<std::pair<Ids, Ids>> ParseScoreRequest(const std::string& line, const Tokenizer* tokenizer) {
  const Json request = ParseJson(line);
  if (!request.is_object()) {
    const std::string utf8 = Utf8ProblemOfJson(line);
    return DataLossError(utf8.empty() ? "expected a JSON object" : utf8);
  }
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

}  // namespace trireme
