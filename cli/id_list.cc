#include "cli/id_list.h"

#include <charconv>
#include <limits>

#include "cluster/base/json.h"

namespace trireme {

Status IdOutOfRange(const std::string& id) {
  return DataLossError(StrCat("id ", id, ": expected 0 to ", std::numeric_limits<int32_t>::max()));
}

Result<std::vector<int32_t>> ParseIdList(const std::string& text) {
  std::vector<int32_t> ids;
  const char* at = text.data();
  const char* const end = at + text.size();
  const auto skip_spaces = [&] {
    while (at < end && (*at == ' ' || *at == '\t')) ++at;
  };
  const auto refuse = [&] {
    const std::string rest(at, std::min<size_t>(end - at, 20));
    return InvalidArgumentError(StrCat("expected token ids like 1,2,3, got ",
                                       rest.empty() ? "nothing" : StrCat("\"", rest, "\""),
                                       ids.empty() ? "" : StrCat(" after ", ids.back())));
  };
  while (true) {
    skip_spaces();
    int32_t id = 0;
    const auto parsed = std::from_chars(at, end, id);
    if (parsed.ec == std::errc::result_out_of_range) {
      return InvalidArgumentError(IdOutOfRange({at, parsed.ptr}).message());
    }
    if (parsed.ec != std::errc()) return refuse();
    at = parsed.ptr;
    const bool spaced = at < end && (*at == ' ' || *at == '\t');
    if (at < end && *at != ',' && !spaced) return refuse();
    ids.push_back(id);
    skip_spaces();
    if (at == end) return ids;
    if (*at == ',') ++at;
  }
}

Result<std::vector<int32_t>> IdsOfJson(const nlohmann::ordered_json& array,
                                       const std::string& name) {
  if (!array.is_array()) return DataLossError(StrCat("\"", name, "\": expected [1, 2, 3]"));
  std::vector<int32_t> ids;
  for (const auto& id : array) {
    if (!id.is_number_integer()) {
      return DataLossError(StrCat("\"", name, "\" holds ", DumpJson(id).substr(0, 60)));
    }
    const bool fits = id.is_number_unsigned()
                          ? id.get<uint64_t>() <= std::numeric_limits<int32_t>::max()
                          : id.get<int64_t>() >= std::numeric_limits<int32_t>::min();
    if (!fits) return IdOutOfRange(DumpJson(id)).WithContext("\"" + name + "\"");
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace trireme
