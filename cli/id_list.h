// Token ids as users write them.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

// "1,22,333": decimals, separated by single commas, with spaces around them or in their place.
// kInvalidArgument, also when there is none.
Result<std::vector<int32_t>> ParseIdList(const std::string& text);

// A JSON array of integers. kDataLoss.
Result<std::vector<int32_t>> IdsOfJson(const nlohmann::ordered_json& array,
                                       const std::string& name);

// What is said of an id that is larger than any.
Status IdOutOfRange(const std::string& id);

}  // namespace trireme
