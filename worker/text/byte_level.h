// GPT-2's printable alphabet for bytes: how byte-level vocabularies are spelled in json files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace trireme {

// The code point that stands for `byte`: itself where it is printable in Latin-1, otherwise one
// from U+0100 up. Radford et al. 2019, bytes_to_unicode() of the GPT-2 release.
uint32_t ByteLevelCodePoint(uint8_t byte);

// Any bytes to their spelling in UTF-8, and back. ByteLevelDecode returns false, with `bytes` in an
// unspecified state, when `spelling` holds a character outside of the alphabet.
std::string ByteLevelEncode(std::string_view bytes);
bool ByteLevelDecode(std::string_view spelling, std::string* bytes);

}  // namespace trireme
