#include "cli/config_folders.h"

#include <filesystem>
#include <utility>

#include "storage/checkpoint_location.h"

namespace trireme {

std::optional<std::string> RestInFolder(std::string path, std::string folder) {
  path = WithoutFileScheme(std::move(path));
  folder = WithoutFileScheme(std::move(folder));
  while (folder.size() > 1 && folder.ends_with('/')) folder.pop_back();
  if (folder.empty() || !path.starts_with(folder)) return std::nullopt;
  const std::string rest = path.substr(folder.size());
  if (!rest.empty() && rest[0] != '/') return std::nullopt;
  return rest;
}

bool CanBeSameFolder(std::string a, std::string b) {
  for (std::string* path : {&a, &b}) {
    *path = WithoutFileScheme(std::move(*path));
    if (path->find("://") != std::string::npos) continue;
    *path = (std::filesystem::path(*path) / "").lexically_normal().parent_path().string();
  }
  if (a == b) return true;
  if (a.starts_with('/') == b.starts_with('/')) return false;
  const auto &whole = a.starts_with('/') ? a : b, &part = a.starts_with('/') ? b : a;
  return whole.ends_with("/" + part);
}

std::string OnePath(const std::string& path) {
  namespace fs = std::filesystem;
  const std::string plain = WithoutFileScheme(path);
  if (plain.empty() || plain.find("://") != std::string::npos) return plain;
  std::error_code error;
  fs::path one = fs::weakly_canonical(fs::absolute(plain, error), error);
  if (error) one = fs::absolute(plain, error).lexically_normal();
  return one.filename().empty() ? one.parent_path().string() : one.string();
}

}  // namespace trireme
