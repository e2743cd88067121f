// Files and folders as users write them, paths or URLs, compared.
#pragma once

#include <optional>
#include <string>

namespace trireme {

// What `path` has beyond `folder`: "/checkpoints", or "" for the folder itself; nothing outside.
std::optional<std::string> RestInFolder(std::string path, std::string folder);
// A relative path was meant from wherever the run was started: "runs/a" can be "/home/me/runs/a".
bool CanBeSameFolder(std::string a, std::string b);

// One spelling for all of a path: absolute, links followed as far as it exists, without file:// and
// without what leads nowhere ("./a", "b/../a"). Other URLs stay as they are.
std::string OnePath(const std::string& path);

}  // namespace trireme
