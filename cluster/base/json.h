// JSON by nlohmann's library. Its parser and writer are compiled once, in json.cc: they are most of
// what a file that calls them would cost to compile.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace trireme {

using Json = nlohmann::ordered_json;  // keys stay in the order in which they were written
using SortedJson = nlohmann::json;    // looks keys up faster

// is_discarded() where the text is no JSON.
Json ParseJson(std::string_view text);
// Of a text that ParseJson discards, where bytes are to blame: "not valid UTF-8", with a hint at
// half a surrogate pair; else nothing.
std::string Utf8ProblemOfJson(std::string_view text);
SortedJson ParseSortedJson(std::string_view text);

// indent: spaces a level; -1: all on one line. Bytes that are no UTF-8 become U+FFFD.
std::string DumpJson(const Json& json, int indent = -1);
std::string DumpJson(const SortedJson& json, int indent = -1);

}  // namespace trireme
