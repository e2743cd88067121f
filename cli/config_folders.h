// Folders of runs and stores as users write them, paths or URLs, compared without looking at any.
#pragma once

#include <optional>
#include <string>

namespace trireme {

// What `path` has beyond `folder`: "/checkpoints", or "" for the folder itself; nothing outside.
std::optional<std::string> RestInFolder(std::string path, std::string folder);
// A relative path was meant from wherever the run was started: "runs/a" can be "/home/me/runs/a".
bool CanBeSameFolder(std::string a, std::string b);

}  // namespace trireme
