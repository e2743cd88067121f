#include "cli/config_places.h"

namespace trireme {

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
