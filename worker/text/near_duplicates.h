// Duplicate documents: equal ones by a hash, similar ones by MinHash and banding.
//
// A pair whose shingle sets have Jaccard similarity s collides with probability
// 1 - (1 - s^8)^14 (Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of massive datasets",
// chapter 3.4; bands and rows as in FineWeb, Penedo et al. 2024).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace trireme {

inline constexpr int kMinHashBands = 14;
inline constexpr int kMinHashRows = 8;
inline constexpr int kShingleWords = 5;

// What the index keeps of a document.
struct DuplicateSignature {
  std::array<uint64_t, 2> exact = {};              // XXH3-128 of the text, never {0, 0}
  std::array<uint64_t, kMinHashBands> bands = {};  // a hash a band, never 0
};

// What similarity is measured on: hashes of all runs of five words, as a set (repeats stand where
// they come; minima do not see them).
// Words are runs of letters, marks and digits in lower case; in scripts written without spaces
// (Han, kana, Thai, Lao, Khmer, Myanmar) every character is a word. A text of fewer than five words
// has one shingle, all of it.
std::vector<uint64_t> Shingles(std::string_view text);

// Minima of 14 x 8 permutations over `shingles`, hashed band by band.
std::array<uint64_t, kMinHashBands> MinHashBands(const std::vector<uint64_t>& shingles);

DuplicateSignature SignatureOf(std::string_view text);

// A set of hashes: open addressing in a power of two of slots, at most 3/4 full. The key of zeros
// marks a free slot and cannot be held.
template <typename Key>
class KeySet {
 public:
  bool Contains(const Key& key) const {
    if (slots_.empty()) return false;
    const size_t slot = Find(key);
    return slots_[slot] == key;
  }
  void Insert(const Key& key) {
    if (4 * (used_ + 1) > 3 * slots_.size()) {
      std::vector<Key> old(std::max<size_t>(1024, slots_.size() * 2), Key());
      old.swap(slots_);
      for (const Key& kept : old) {
        if (kept != Key()) slots_[Find(kept)] = kept;
      }
    }
    Key& slot = slots_[Find(key)];
    used_ += slot == key ? 0 : 1;
    slot = key;
  }
  size_t bytes() const { return slots_.size() * sizeof(Key); }

 private:
  static uint64_t Bits(uint64_t key) { return key; }
  static uint64_t Bits(const std::array<uint64_t, 2>& key) { return key[0]; }
  // The slot that holds `key`, or the free one where it belongs.
  size_t Find(const Key& key) const {
    const size_t mask = slots_.size() - 1;
    size_t i = Bits(key) & mask;
    while (slots_[i] != Key() && slots_[i] != key) i = (i + 1) & mask;
    return i;
  }

  std::vector<Key> slots_;
  size_t used_ = 0;
};

enum class DuplicateKind : uint8_t { kNone, kExact, kNear };

// All documents kept so far. The only part of cleaning that grows with the corpus: 128 bytes of
// keys a kept document, 170 to 340 bytes with the free slots of the tables.
class DuplicateIndex {
 public:
  // Which kept document `signature` repeats, if any; adds it where it repeats none. `near` off
  // compares for equality alone.
  DuplicateKind Add(const DuplicateSignature& signature, bool near);
  size_t bytes() const;

 private:
  KeySet<std::array<uint64_t, 2>> exact_;
  std::array<KeySet<uint64_t>, kMinHashBands> bands_;
};

}  // namespace trireme
