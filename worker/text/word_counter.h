// Counts the distinct words of a corpus: what byte pairs are learned from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

// Words and how often each stands in the corpus.
class WordTable {
 public:
  WordTable();

  // Adds `count` to a word. `word` is shorter than 4 GiB.
  void Add(std::string_view word, int64_t count);
  void Add(const WordTable& other);

  size_t size() const { return words_.size(); }
  std::string_view word(size_t index) const;
  int64_t count(size_t index) const { return words_[index].count; }
  // Of the distinct words, each once.
  size_t bytes() const { return bytes_.size(); }

 private:
  struct Word {
    uint64_t begin;
    uint32_t size;
    uint32_t hash;
    int64_t count;
  };
  void Grow();

  std::vector<Word> words_;      // in the order of their first appearance
  std::vector<uint32_t> slots_;  // index + 1 into words_; 0 is free
  std::string bytes_;
};

// Cuts documents into words on several threads. The counts do not depend on how many.
// Memory: the distinct words, once a thread, and 4 MiB of text a thread.
class WordCounter {
 public:
  // `pattern`: a regular expression, see pretokenize.h. kInvalidArgument if it does not compile.
  static Result<std::unique_ptr<WordCounter>> Create(const std::string& pattern, int threads);
  ~WordCounter();

  // Documents of any length, one call after the other. Bytes that are not UTF-8 end a word and
  // count for nothing.
  void Add(std::string_view document);
  // The words of all that was added. Call once, last.
  WordTable Finish();

 private:
  struct State;
  explicit WordCounter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace trireme
