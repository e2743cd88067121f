#include "storage/checkpoint_location.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "storage/checkpoint_manifest.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

bool Exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool IsFolder(const std::string& path) {
  std::error_code ignored;
  return fs::is_directory(path, ignored);
}

std::string Join(const std::string& folder, const std::string& name) {
  return (fs::path(folder) / name).string();
}

// The value of a key of a section in a config.yaml that the program wrote, in block or flow style;
// "" when there is none. The YAML library is not at hand in this room.
std::string ValueIn(const std::string& config_path, const std::string& section,
                    const std::string& key) {
  std::ifstream file(config_path);
  bool in_section = false;
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    if (line[0] != ' ') in_section = line.starts_with(section + ":");
    const size_t at = in_section ? line.find(key + ":") : std::string::npos;
    if (at == std::string::npos) continue;
    std::string value = line.substr(at + key.size() + 1);
    value = value.substr(0, value.find_first_of(",}#"));
    const size_t begin = value.find_first_not_of(" \t\"'");
    if (begin == std::string::npos) return "";
    return value.substr(begin, value.find_last_not_of(" \t\"'\r") - begin + 1);
  }
  return "";
}

// The store of the run in `folder`: what its config.yaml names, or its checkpoints/ where that is
// not to be found from here; "" where no run is. A store inside the folder has moved along with it.
std::string StoreOfRun(const std::string& folder) {
  const std::string config = Join(folder, "config.yaml"), usual = Join(folder, "checkpoints");
  const std::string named = ValueIn(config, "checkpoint", "store");
  const std::string dir = WithoutFileScheme(ValueIn(config, "run", "dir"));
  std::string path = WithoutFileScheme(named);
  if (!dir.empty() && path.starts_with(dir + "/")) path = folder + path.substr(dir.size());
  if (path.find("://") != std::string::npos || IsFolder(path)) return path;
  if (IsFolder(usual)) return usual;
  return named.empty() && Exists(config) ? folder : path;
}

// Splits "STORE@50"; a path that exists with its '@' is taken as it is.
std::string SplitStep(const std::string& text, std::optional<int64_t>* step) {
  const size_t at = text.rfind('@');
  if (at == std::string::npos || at == 0 || Exists(text)) return text;
  const std::string digits = text.substr(at + 1);
  if (digits.empty() || digits.size() > 18 ||
      digits.find_first_not_of("0123456789") != std::string::npos) {
    return text;
  }
  *step = std::stoll(digits);
  return text.substr(0, at);
}

// kStorage, with the steps that there are, for one of which there is nothing at all.
Status CheckStep(const ObjectStore& store, const std::string& text, int64_t step) {
  const auto steps = ListCheckpoints(store);
  if (!steps.ok() || std::find(steps->begin(), steps->end(), step) != steps->end()) {
    return OkStatus();
  }
  const std::string manifest = ManifestKey(step);
  const auto pieces = store.List(manifest.substr(0, manifest.find('/') + 1));
  if (!pieces.ok() || !pieces->empty()) return OkStatus();
  std::string there;
  for (const int64_t one : *steps) there += StrCat(there.empty() ? "" : ", ", one);
  return StorageError(StrCat(text, ": there is no checkpoint of step ", step,
                             there.empty() ? "" : "; there are ", there));
}

}  // namespace

std::string WithoutFileScheme(std::string text) {
  if (text.starts_with("file:///")) text.erase(0, std::string_view("file://").size());
  return text;
}

Status CheckStepOf(const std::string& text) {
  const std::string path = WithoutFileScheme(text);
  std::optional<int64_t> step;
  const size_t at = path.rfind('@');
  if (at == std::string::npos || Exists(path) || !Exists(path.substr(0, at))) return OkStatus();
  if (SplitStep(path, &step) != path) return OkStatus();
  return InvalidArgumentError(
      StrCat(text, ": expected a step behind the @, as in ", path.substr(0, at), "@50"));
}

CheckpointLocation LocateCheckpoint(const std::string& text) {
  CheckpointLocation location;
  std::string path = WithoutFileScheme(SplitStep(text, &location.step));
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  location.store_url = path;
  if (path.find("://") != std::string::npos) return location;
  const std::optional<int64_t> step = StepOfFolder(fs::path(path).filename().string());
  if (step && !location.step) {
    location.step = step;
    path = fs::path(path).parent_path().string();
    if (path.empty()) path = ".";
    location.store_url = path;
  }
  if (const std::string store = StoreOfRun(path); !store.empty()) {
    location.run_dir = path;
    location.store_url = store;
  } else {
    std::string parent = fs::path(path).parent_path().string();
    if (parent.empty()) parent = ".";
    if (Exists(Join(parent, "config.yaml"))) location.run_dir = parent;
  }
  return location;
}

Result<OpenedCheckpoint> OpenCheckpoint(const std::string& text) {
  OpenedCheckpoint opened;
  RETURN_IF_ERROR(CheckStepOf(text));
  opened.location = LocateCheckpoint(text);
  const std::string& url = opened.location.store_url;
  if (Exists(url) && !IsFolder(url)) {
    return InvalidArgumentError(StrCat(text, ": ", url, " is a file and has no steps"));
  }
  ASSIGN_OR_RETURN(opened.store, OpenStore(url));
  if (opened.location.step) {
    RETURN_IF_ERROR(CheckStep(*opened.store, text, *opened.location.step));
    ASSIGN_OR_RETURN(opened.reader, OpenVerifiedCheckpoint(*opened.store, *opened.location.step));
    return opened;
  }
  auto reader = OpenNewestCheckpoint(*opened.store, &opened.set_aside);
  if (reader.status().code() == StatusCode::kNotFound) {
    return StorageError(reader.status().message());
  }
  RETURN_IF_ERROR(reader.status());
  opened.reader = std::move(reader).value();
  return opened;
}

}  // namespace trireme
