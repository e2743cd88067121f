// BpeBorders: where a word can be cut so that its parts are merged each by itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "worker/text/bpe_merger.h"

namespace trireme {

// A merge across a border joins a symbol that ends there with one that begins there. Where no merge
// of the table has a left side that the text before the border ends with and a right side that the
// text after it begins with, no merge ever crosses it: the order of merges on either side is that
// of the side alone, and the tokens of the word are those of the two parts. Only borders between
// two characters of three UTF-8 bytes are looked at: Chinese, Japanese and Korean text has words of
// dozens of them that seldom come twice, and parts that often do.
//
// Sides are compared by their three bytes next to the border, in a table of hashes: an answer is
// "cannot cross" only when that is so. Immutable and thread-safe.
class BpeBorders {
 public:
  // Nothing is known: every border may be crossed.
  BpeBorders() = default;
  // tokens: bytes by id.
  BpeBorders(const std::vector<BpeMerge>& merges, const std::vector<std::string>& tokens);

  bool defined() const { return !crossed_.empty(); }
  // border[-3 .. -1] and border[0 .. 2]: a character each.
  bool MayCross(const char* border) const {
    const uint32_t before = Bytes(border - 3, 3), after = Bytes(border, 3);
    if (Has(before, after)) return true;
    return short_side_[ShortAt(border[-1], border[0])] && MayCrossShort(before, after);
  }
  static bool IsThreeBytes(char lead) { return (static_cast<uint8_t>(lead) & 0xf0) == 0xe0; }

 private:
  static constexpr int kBits = 20;  // of the table's index

  // The first of `count` bytes lowest.
  static uint32_t Bytes(const char* at, int count) {
    uint32_t bytes = 0;
    for (int i = 0; i < count; ++i) {
      bytes |= static_cast<uint32_t>(static_cast<uint8_t>(at[i])) << (8 * i);
    }
    return bytes;
  }
  static size_t ShortAt(char before, char after) {
    return static_cast<size_t>(static_cast<uint8_t>(before)) << 8 | static_cast<uint8_t>(after);
  }
  // No byte of a side is zero: shorter sides differ from longer ones.
  static size_t IndexOf(uint32_t before, uint32_t after) {
    return (static_cast<uint64_t>(before) << 24 | after) * 0x9e3779b97f4a7c15u >> (64 - kBits);
  }
  bool Has(uint32_t before, uint32_t after) const {
    const size_t at = IndexOf(before, after);
    return crossed_[at / 64] >> at % 64 & 1;
  }
  bool MayCrossShort(uint32_t before, uint32_t after) const;

  std::vector<uint64_t> crossed_;  // bits by IndexOf of the sides' bytes, three at most
  // By the two bytes at the border: a merge with a side of one or two bytes has them.
  std::vector<bool> short_side_;
};

}  // namespace trireme
