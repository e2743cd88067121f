// A line of what `trireme score` reads.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cluster/base/status.h"
#include "worker/text/tokenizer.h"

namespace trireme {

// The ids of context and continuation of {"context": TEXT, "continuation": TEXT}, or as
// {"context_ids": [..], "continuation_ids": [..]}. tokenizer: may be null where only ids come.
// kDataLoss: something else. kInvalidArgument: a text without a tokenizer, or one that has no
// tokens.
Result<std::pair<std::vector<int32_t>, std::vector<int32_t>>> ParseScoreRequest(
    const std::string& line, const Tokenizer* tokenizer);

}  // namespace trireme
