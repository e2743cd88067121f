// What can be wrong with a filled-in run.
#pragma once

#include <optional>
#include <string>

#include "worker/model/model_config.h"

namespace trireme {

// The first problem, its key as a full path ("batch.sequences", "data.train[1].weight"), or
// nothing. Checks every key's range and names first, then keys against one another.
std::optional<ConfigProblem> FindConfigProblem(const proto::Config& config);

// "batch.sequences: 30: expected ..." as a Status of the problem's code; `place` is put before it
// when it is not empty.
Status ProblemToStatus(const ConfigProblem& problem, const std::string& place);

// "; did you mean X?", or nothing when no name is near.
std::string DidYouMean(std::string_view word, const std::vector<std::string>& names);

}  // namespace trireme
