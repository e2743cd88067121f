#include "cluster/base/json.h"

namespace trireme {

Json ParseJson(std::string_view text) {
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

SortedJson ParseSortedJson(std::string_view text) {
  return SortedJson::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::string DumpJson(const Json& json, int indent) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

std::string DumpJson(const SortedJson& json, int indent) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, SortedJson::error_handler_t::replace);
}

}  // namespace trireme
