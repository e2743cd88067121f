// YAML as users write it: one document, refused where it is not YAML.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>

#include "cluster/base/status.h"

namespace trireme {

// The one document of `text`, a null node where it is empty. Errors say `place` and, where yaml-cpp
// knows it, the line: what is not valid YAML, and a second document.
Result<YAML::Node> ParseYamlDocument(const std::string& text, const std::string& place);

// Whether it is a text whatever it looks like: "200" in quotes, or !!str 200.
bool IsWrittenAsText(const YAML::Node& node);

}  // namespace trireme
