// Text of unknown origin, seen as stretches of valid UTF-8 and the bytes between them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace trireme {

// The length of the longest valid UTF-8 prefix of `text`.
size_t ValidUtf8Prefix(std::string_view text);

// Calls on_valid(std::string_view) for every maximal stretch of valid UTF-8 that is not empty and
// on_byte(uint8_t) for every byte that belongs to none, in order.
template <typename OnValid, typename OnByte>
void ForEachUtf8Segment(std::string_view text, OnValid on_valid, OnByte on_byte) {
  while (!text.empty()) {
    const size_t valid = ValidUtf8Prefix(text);
    if (valid > 0) on_valid(text.substr(0, valid));
    text.remove_prefix(valid);
    while (!text.empty() && ValidUtf8Prefix(text.substr(0, 4)) == 0) {
      on_byte(static_cast<uint8_t>(text[0]));
      text.remove_prefix(1);
    }
  }
}

}  // namespace trireme
