#include "cli/config_places.h"

#include <filesystem>

namespace trireme {
namespace {

// A file URL is its path.
void DropFileScheme(std::string* path) {
  if (path->starts_with("file:///")) path->erase(0, std::string_view("file://").size());
}

}  // namespace

std::optional<std::string> RestInFolder(std::string path, std::string folder) {
  DropFileScheme(&path);
  DropFileScheme(&folder);
  while (folder.size() > 1 && folder.ends_with('/')) folder.pop_back();
  if (folder.empty() || !path.starts_with(folder)) return std::nullopt;
  const std::string rest = path.substr(folder.size());
  if (!rest.empty() && rest[0] != '/') return std::nullopt;
  return rest;
}

bool CanBeSameFolder(std::string a, std::string b) {
  for (std::string* path : {&a, &b}) {
    DropFileScheme(path);
    if (path->find("://") != std::string::npos) continue;
    *path = (std::filesystem::path(*path) / "").lexically_normal().parent_path().string();
  }
  if (a == b) return true;
  if (a.starts_with('/') == b.starts_with('/')) return false;
  const auto &whole = a.starts_with('/') ? a : b, &part = a.starts_with('/') ? b : a;
  return whole.ends_with("/" + part);
}

void ConfigPlaces::Record(const std::string& key, std::string place, std::string written) {
  entries_[key] = {std::move(place), std::move(written)};
}

std::string ConfigPlaces::PlaceOf(std::string key) const {
  while (true) {
    if (const auto found = entries_.find(key); found != entries_.end()) return found->second.place;
    const size_t cut = key.find_last_of(".[");
    if (cut == std::string::npos) return file_;
    key.resize(cut);
  }
}

std::string ConfigPlaces::WrittenKey(const std::string& key) const {
  if (const auto found = entries_.find(key); found != entries_.end()) return found->second.written;
  const size_t dot = key.rfind('.');
  return dot == std::string::npos ? key : WrittenKey(key.substr(0, dot)) + key.substr(dot);
}

bool ConfigPlaces::IsOverridden(const std::string& key) const {
  const auto found = entries_.find(key);
  return found != entries_.end() && found->second.place.starts_with("--set ");
}

void ConfigPlaces::Warn(const std::string& key, const std::string& line) {
  warnings_.erase(key);
  if (!line.empty()) warnings_[key] = line;
}

std::vector<std::string> ConfigPlaces::Warnings() const {
  std::vector<std::string> lines;
  for (const auto& [key, line] : warnings_) lines.push_back(line);
  return lines;
}

}  // namespace trireme
