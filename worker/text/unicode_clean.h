// Text as a model should see it: one encoding, one form, no invisible characters.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace trireme {

// Why a text changed. Counted by document and by character.
enum class TextChange : uint8_t {
  kHtml,         // markup taken out; characters: bytes of the page less bytes of its text
  kEncoding,     // converted from another encoding; characters: all
  kInvalidUtf8,  // stray bytes in UTF-8 taken out
  kNormalized,   // characters that NFC composed or exchanged
  kControl,      // control, private-use and non-characters, U+FFFD taken out
  kZeroWidth,    // zero-width, joiners without effect, soft hyphens, direction marks, UTF-8's byte
                 // order mark taken out
  kWhitespace,   // odd spaces and line ends replaced, trailing and repeated ones taken out; not
                 // the one line end that files end with
  kLowercase,    // characters that changed case
};
inline constexpr size_t kTextChanges = 8;
const char* TextChangeName(TextChange change);

// Characters touched, a slot a TextChange.
using TextChanges = std::array<int64_t, kTextChanges>;

// Number of code points of valid UTF-8.
int64_t CountCharacters(std::string_view text);
bool IsValidUtf8(std::string_view text);
// Position of the first byte that is not part of valid UTF-8.
std::optional<size_t> FirstInvalidUtf8(std::string_view text);

// NFC; line ends become '\n'; spaces of every width become ' '; control, zero-width and
// non-characters go (joiners stay where scripts and emoji need them); no space before a line's end,
// at most two blank lines in a row (as between functions of code), none at the ends. `text` is
// valid UTF-8. Adds to `changes`.
void CleanUnicode(std::string* text, TextChanges* changes);

// Unicode's full, locale-independent lower-casing, in NFC afterwards.
void Lowercase(std::string* text, TextChanges* changes);

}  // namespace trireme
