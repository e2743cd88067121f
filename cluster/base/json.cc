#include "cluster/base/json.h"

namespace trireme {

Json ParseJson(std::string_view text) {
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

std::string Utf8ProblemOfJson(std::string_view text) {
  try {
    [[maybe_unused]] const Json parsed = Json::parse(text);
  } catch (const Json::exception& error) {
    const std::string_view what = error.what();
    if (what.find("surrogate") != std::string_view::npos) {
      return "not valid UTF-8: an escape \\uD800 to \\uDFFF that is half of a pair";
    }
    if (what.find("ill-formed UTF-8") != std::string_view::npos) return "not valid UTF-8";
  }
  return "";
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
