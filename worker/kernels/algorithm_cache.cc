#include "worker/kernels/algorithm_cache.h"

#include <fcntl.h>
#include <glog/logging.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <sstream>

namespace trireme {
namespace {

constexpr char kEnd[] = "end";  // a line without it was cut

}  // namespace

AlgorithmCache::AlgorithmCache(std::string path) : path_(std::move(path)) { Read(); }

void AlgorithmCache::Read() {
  std::ifstream file(path_);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string key, end;
    AlgorithmBits bits;
    words >> key >> std::hex;
    for (uint64_t& word : bits) words >> word;
    if (words >> end && end == kEnd) choices_.emplace(key, bits);  // the first one holds
  }
}

const AlgorithmBits* AlgorithmCache::Find(const std::string& key) const {
  const auto found = choices_.find(key);
  return found == choices_.end() ? nullptr : &found->second;
}

const AlgorithmBits& AlgorithmCache::Add(const std::string& key, const AlgorithmBits& bits) {
  std::ostringstream line;
  line << key << std::hex;
  for (uint64_t word : bits) line << ' ' << word;
  line << ' ' << kEnd << '\n';
  const std::string text = line.str();
  const int file = path_.empty() ? -1 : open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT, 0644);
  if (file >= 0) {
    if (write(file, text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
      LOG(WARNING) << path_ << " cannot be written: choices will be measured again";
    }
    close(file);
    Read();  // what other processes added meanwhile, in the order that all see
  }
  return choices_.emplace(key, bits).first->second;
}

std::string CacheFolder() {
  std::string folder;
  if (const char* own = std::getenv("TRIREME_CACHE_DIR"); own != nullptr && *own != 0) {
    folder = own;
  } else if (const char* xdg = std::getenv("XDG_CACHE_HOME"); xdg != nullptr && *xdg != 0) {
    folder = std::string(xdg) + "/trireme";
  } else if (const char* home = std::getenv("HOME"); home != nullptr && *home != 0) {
    folder = std::string(home) + "/.cache/trireme";
  }
  std::error_code error;
  if (!folder.empty()) std::filesystem::create_directories(folder, error);
  return error ? "" : folder;
}

}  // namespace trireme
