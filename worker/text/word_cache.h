// The ids of recent short words, so that the common ones are merged once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace trireme {

// Direct-mapped, 1 MiB, for one thread. A word that needs more ids than an entry holds, or whose
// place is taken by another, is merged again: the cache never changes a result.
class WordCache {
 public:
  static constexpr size_t kBytesMax = 15;
  static constexpr size_t kIdsMax = 3;
  // In Key::high: a part of a word, whose ids may be others than those of the same bytes as a word.
  static constexpr uint64_t kPart = uint64_t{0x80} << 56;

  // The bytes of a word padded with zeros; the last byte is its length.
  struct Key {
    uint64_t low, high;
  };

  struct Entry {
    uint64_t low = 0, high = 0;  // a length of 0 is no word's
    int32_t ids[kIdsMax] = {};
    uint32_t count = 0;

    bool Is(const Key& key) const { return low == key.low && high == key.high; }
    void Set(const Key& key, const std::vector<int32_t>& symbols) {
      if (symbols.size() > kIdsMax) return;
      low = key.low;
      high = key.high;
      count = static_cast<uint32_t>(symbols.size());
      std::copy(symbols.begin(), symbols.end(), ids);
    }
  };
  static_assert(sizeof(Entry) == 32);

  // `readable_end`: up to where bytes may be read, at or after the end of the word.
  static Key MakeKey(std::string_view word, const char* readable_end) {
    Key key{0, 0};
    const size_t size = word.size();
    if (readable_end - word.data() >= 16) {
      std::memcpy(&key, word.data(), 16);
      key.low = size >= 8 ? key.low : key.low & ~(~uint64_t{0} << (size * 8));
      key.high = size <= 8 ? 0 : key.high & ~(~uint64_t{0} << ((size - 8) * 8));
    } else {
      std::memcpy(&key, word.data(), size);
    }
    key.high |= static_cast<uint64_t>(size) << 56;
    return key;
  }

  Entry& At(const Key& key) {
    const uint64_t mixed = (key.low ^ (key.high * 0xd6e8feb86659fd93u)) * 0x9e3779b97f4a7c15u;
    return entries_[mixed >> (64 - kBits)];
  }

 private:
  static constexpr int kBits = 15;
  std::vector<Entry> entries_ = std::vector<Entry>(size_t{1} << kBits);
};

}  // namespace trireme
