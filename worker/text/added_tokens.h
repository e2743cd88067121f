// Special and added tokens inside a text.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "worker/text/bpe_tokenizer.h"

namespace trireme {

// Finds added tokens: the leftmost, of those the longest. Immutable and thread-safe.
class AddedTokenFinder {
 public:
  struct Match {
    size_t begin = 0, end = 0;  // with the white space that the token takes along
    int32_t id = 0;
  };

  explicit AddedTokenFinder(const std::vector<AddedToken>& tokens);

  // The first token at or after `from`, none of whose bytes lie before it.
  std::optional<Match> Find(std::string_view text, size_t from) const;
  bool Holds(int32_t id) const;

 private:
  const AddedToken* At(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;  // longest first
  std::array<bool, 256> starts_ = {};
};

}  // namespace trireme
