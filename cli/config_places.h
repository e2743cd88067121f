// Where each key of a run was written and under which name: what messages to users begin with.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace trireme {

class ConfigPlaces {
 public:
  // place: "run.yaml:12" or "--set optimizer.lr=1". written: the key in the user's words, an alias
  // ("model.n_embd") of `key` ("model.hidden_size"). A later place replaces an earlier one.
  void Record(const std::string& key, std::string place, std::string written);
  void SetFile(std::string name) { file_ = std::move(name); }

  // Of the key, or of the nearest section around it that was written; else the file.
  std::string PlaceOf(std::string key) const;
  // The key in the user's words.
  std::string WrittenKey(const std::string& key) const;
  // Whether this very key was set by --set.
  bool IsOverridden(const std::string& key) const;

  // What is known of a key and does not end the run, one line; an empty one takes it back.
  void Warn(const std::string& key, const std::string& line);
  std::vector<std::string> Warnings() const;

 private:
  struct Entry {
    std::string place;
    std::string written;
  };
  std::map<std::string, Entry> entries_;
  std::string file_;
  std::map<std::string, std::string> warnings_;  // by key
};

}  // namespace trireme
