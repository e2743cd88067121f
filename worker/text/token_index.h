// From the bytes of a token to its id.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

// A hash table over the `usable` tokens; of equal tokens the lowest id counts. Immutable once
// built, thread-safe. Holds a copy of the tokens' bytes.
class TokenIndex {
 public:
  TokenIndex() = default;
  TokenIndex(const std::vector<std::string>& tokens, const std::vector<bool>& usable);

  // The id, or -1.
  int32_t Find(std::string_view bytes) const;

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t id = -1;
    uint64_t begin = 0;
    uint32_t size = 0;
  };

  std::vector<Slot> slots_;
  std::string bytes_;
};

}  // namespace trireme
