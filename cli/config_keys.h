// Every key of run.yaml with its default, unit, range and meaning. Types come from
// proto/config.proto by reflection, everything else from this table: what `trireme config` prints,
// what is filled in and what is refused are one and the same.
#pragma once

#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

struct ConfigKey {
  std::string_view path;      // "batch.sequences"; items of lists: "data.train.path"
  std::string_view fallback;  // the default as YAML, or in parentheses how it is found
  std::string_view unit;      // "sequences"; empty when there is none
  std::string_view meaning;   // one line
  double least = -std::numeric_limits<double>::infinity();
  double most = std::numeric_limits<double>::infinity();
  bool above_least = false;       // `least` itself is refused
  std::string_view choices = {};  // names that are built, separated by blanks
  std::string_view later = {};    // names that are known and not built yet

  bool has_constant_default() const { return !fallback.empty() && fallback.front() != '('; }
};

const std::vector<ConfigKey>& ConfigKeys();
// Null when there is no such key.
const ConfigKey* FindConfigKey(std::string_view path);
// The names of a list separated by blanks.
std::vector<std::string> SplitNames(std::string_view names);

}  // namespace trireme
