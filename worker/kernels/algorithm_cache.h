// Choices that were measured once and hold from then on: a text file, a line a choice. Measured
// again they could come out differently, and with them the bits of results.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace trireme {

// What a library calls an algorithm: opaque, good for one version of it.
using AlgorithmBits = std::array<uint64_t, 8>;

// Not thread-safe. Several processes may share the file: lines are appended whole, and the first
// line of a key holds. Lines that are cut or foreign are passed over.
class AlgorithmCache {
 public:
  // Reads what is there. A file that cannot be written is used as far as it can be read.
  explicit AlgorithmCache(std::string path);

  const AlgorithmBits* Find(const std::string& key) const;
  // Keeps a choice for this process and for later ones. The key has no white space. Returns what
  // holds: another process may have been first.
  const AlgorithmBits& Add(const std::string& key, const AlgorithmBits& bits);
  const std::string& path() const { return path_; }

 private:
  void Read();

  std::string path_;
  std::map<std::string, AlgorithmBits> choices_;
};

// TRIREME_CACHE_DIR, or trireme/ in XDG_CACHE_HOME or in ~/.cache. Made when it is missing; empty
// when there is no place for it.
std::string CacheFolder();

}  // namespace trireme
