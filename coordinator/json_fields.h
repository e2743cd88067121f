// Fields of JSON lines that come back from a run's folder, where anything may have written.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

namespace trireme {

// nullopt when `json` is no object, or has no such field of that type and range.
template <typename Json>
std::optional<int64_t> IntegerField(const Json& json, const char* key) {
  if (!json.is_object() || !json.contains(key) || !json[key].is_number_integer()) {
    return std::nullopt;
  }
  constexpr uint64_t kMax = std::numeric_limits<int64_t>::max();
  if (json[key].is_number_unsigned() && json[key].template get<uint64_t>() > kMax) {
    return std::nullopt;
  }
  return json[key].template get<int64_t>();
}

template <typename Json>
std::optional<std::string> TextField(const Json& json, const char* key) {
  if (!json.is_object() || !json.contains(key) || !json[key].is_string()) return std::nullopt;
  return json[key].template get<std::string>();
}

}  // namespace trireme
