#include "worker/text/unicode_clean.h"

#include <unicode/bytestream.h>
#include <unicode/casemap.h>
#include <unicode/edits.h>
#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <algorithm>
#include <cstring>

#include "worker/text/icu_nfc.h"

namespace trireme {
namespace {

bool IsAscii(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    if ((word & 0x8080808080808080ULL) != 0) return false;
  }
  for (; i < text.size(); ++i) {
    if ((text[i] & 0x80) != 0) return false;
  }
  return true;
}

icu::StringPiece Piece(std::string_view text) {
  return icu::StringPiece(text.data(), static_cast<int32_t>(text.size()));
}

void AppendCodePoint(UChar32 c, std::string* out) {
  char bytes[U8_MAX_LENGTH];
  int32_t size = 0;
  U8_APPEND_UNSAFE(bytes, size, c);
  out->append(bytes, static_cast<size_t>(size));
}

enum class Fate : uint8_t { kKeep, kSpace, kLine, kParagraph, kControl, kZeroWidth, kJoiner };

Fate FateOf(UChar32 c) {
  if (c >= 0x20 && c < 0x7F) return Fate::kKeep;
  if (c == '\n' || c == '\t') return Fate::kKeep;
  switch (c) {
    case '\v':
    case '\f':
    case 0x85:
    case 0x2028:
      return Fate::kLine;
    case 0x2029:
      return Fate::kParagraph;
    case 0x200C:
    case 0x200D:
      return Fate::kJoiner;
    case 0xAD:    // soft hyphen
    case 0x61C:   // Arabic letter mark
    case 0x180E:  // Mongolian vowel separator
    case 0x200B:
    case 0x200E:
    case 0x200F:
    case 0x2060:
    case 0xFEFF:
      return Fate::kZeroWidth;
    case 0xFFFC:
    case 0xFFFD:
      return Fate::kControl;
    default:
      break;
  }
  if ((c >= 0x202A && c <= 0x202E) || (c >= 0x2061 && c <= 0x206F)) return Fate::kZeroWidth;
  switch (u_charType(c)) {
    case U_SPACE_SEPARATOR:
      return Fate::kSpace;
    case U_CONTROL_CHAR:
    case U_PRIVATE_USE_CHAR:
    case U_SURROGATE:
      return Fate::kControl;
    case U_UNASSIGNED:
      return U_IS_UNICODE_NONCHAR(c) ? Fate::kControl : Fate::kKeep;
    default:
      return Fate::kKeep;
  }
}

// A joiner has an effect between letters of joining scripts and between parts of an emoji.
bool JoinerHasEffect(UChar32 before, UChar32 after) {
  const auto joins = [](UChar32 c) {
    if (c == 0) return false;
    if (u_getIntPropertyValue(c, UCHAR_JOINING_TYPE) != U_JT_NON_JOINING) return true;
    if (u_getIntPropertyValue(c, UCHAR_INDIC_SYLLABIC_CATEGORY) != 0) return true;
    return u_hasBinaryProperty(c, UCHAR_EXTENDED_PICTOGRAPHIC) != 0 ||
           u_hasBinaryProperty(c, UCHAR_EMOJI_MODIFIER) != 0 || c == 0xFE0F;
  };
  return joins(before) && joins(after);
}

// One pass over the characters; lines are tidied as they end.
class Sweeper {
 public:
  Sweeper(std::string_view in, TextChanges* changes) : in_(in), changes_(*changes) {
    out_.reserve(in.size());
  }

  std::string Run() {
    const char* data = in_.data();
    const auto size = static_cast<int32_t>(in_.size());
    for (int32_t i = 0; i < size;) {
      const int32_t run = PlainRun(i, size);
      if (run > i) {
        out_.append(data + i, static_cast<size_t>(run - i));
        previous_ = static_cast<unsigned char>(data[run - 1]);
        i = run;
        continue;
      }
      UChar32 c;
      U8_NEXT(data, i, size, c);
      Character(c, i, size);
    }
    EndLine();
    while (!out_.empty() && out_.back() == '\n') {
      out_.pop_back();
      ++extra_ends_;
    }
    // The line end that files end with is no change worth counting.
    Count(TextChange::kWhitespace, std::max<int64_t>(0, extra_ends_ - 1));
    return std::move(out_);
  }

 private:
  void Count(TextChange change, int64_t count = 1) {
    changes_[static_cast<size_t>(change)] += count;
  }

  // End of the printable ASCII from `i` on.
  int32_t PlainRun(int32_t i, int32_t size) const {
    while (i < size && in_[i] >= 0x20 && in_[i] < 0x7F) ++i;
    return i;
  }

  void Character(UChar32 c, int32_t next, int32_t size) {
    if (c == '\n') return Newline();
    if (c == '\r') {
      Count(TextChange::kWhitespace);
      if (next < size && in_[next] == '\n') return;
      return Newline();
    }
    switch (FateOf(c)) {
      case Fate::kKeep:
        AppendCodePoint(c, &out_);
        previous_ = c;
        return;
      case Fate::kSpace:
        out_.push_back(' ');
        previous_ = ' ';
        return Count(TextChange::kWhitespace);
      case Fate::kLine:
        Count(TextChange::kWhitespace);
        return Newline();
      case Fate::kParagraph:
        Count(TextChange::kWhitespace);
        Newline();
        return Newline();
      case Fate::kControl:
        return Count(TextChange::kControl);
      case Fate::kZeroWidth:
        return Count(TextChange::kZeroWidth);
      case Fate::kJoiner: {
        if (!JoinerHasEffect(previous_, NextKept(next, size))) {
          return Count(TextChange::kZeroWidth);
        }
        return AppendCodePoint(c, &out_);
      }
    }
  }

  // The first character from `i` on that will not be taken out; 0 at the end. Looks no further than
  // what text in use has between two letters, so that long runs of joiners cost no more.
  UChar32 NextKept(int32_t i, int32_t size) const {
    for (int looked = 0; i < size && looked < 16; ++looked) {
      UChar32 c;
      U8_NEXT(in_.data(), i, size, c);
      const Fate fate = FateOf(c);
      if (fate != Fate::kControl && fate != Fate::kZeroWidth && fate != Fate::kJoiner) return c;
    }
    return 0;
  }

  void EndLine() {
    size_t end = out_.size();
    while (end > 0 && (out_[end - 1] == ' ' || out_[end - 1] == '\t')) --end;
    Count(TextChange::kWhitespace, static_cast<int64_t>(out_.size() - end));
    out_.resize(end);
  }

  void Newline() {
    EndLine();
    previous_ = 0;
    const size_t size = out_.size();
    const bool blank = size >= 3 && out_.compare(size - 3, 3, "\n\n\n") == 0;
    if (out_.empty() || blank) {
      Count(TextChange::kWhitespace);
    } else {
      out_.push_back('\n');
    }
  }

  std::string_view in_;
  TextChanges& changes_;
  std::string out_;
  UChar32 previous_ = 0;
  int64_t extra_ends_ = 0;
};

// NFC of `text` in place. Returns how many of its characters were composed or exchanged.
int64_t Normalize(std::string* text) {
  if (IsAscii(*text)) return 0;
  UErrorCode error = U_ZERO_ERROR;
  if (IcuNfc().isNormalizedUTF8(Piece(*text), error) != 0) return 0;
  std::string normal;
  normal.reserve(text->size());
  icu::StringByteSink<std::string> sink(&normal);
  icu::Edits edits;
  IcuNfc().normalizeUTF8(0, Piece(*text), sink, &edits, error);
  int64_t changed = 0;
  for (auto it = edits.getFineChangesIterator(); it.next(error) != 0;) {
    changed += CountCharacters(std::string_view(*text).substr(static_cast<size_t>(it.sourceIndex()),
                                                              static_cast<size_t>(it.oldLength())));
  }
  CHECK(U_SUCCESS(error)) << u_errorName(error);
  *text = std::move(normal);
  return changed;
}

}  // namespace

const char* TextChangeName(TextChange change) {
  switch (change) {
    case TextChange::kHtml:
      return "html";
    case TextChange::kEncoding:
      return "encoding";
    case TextChange::kInvalidUtf8:
      return "invalid_utf8";
    case TextChange::kNormalized:
      return "not_normalized";
    case TextChange::kControl:
      return "control_characters";
    case TextChange::kZeroWidth:
      return "zero_width";
    case TextChange::kWhitespace:
      return "whitespace";
    case TextChange::kLowercase:
      return "lowercase";
  }
  return "unknown";
}

int64_t CountCharacters(std::string_view text) {
  int64_t count = 0;
  for (const char c : text) count += (c & 0xC0) != 0x80 ? 1 : 0;
  return count;
}

bool IsValidUtf8(std::string_view text) { return !FirstInvalidUtf8(text).has_value(); }

std::optional<size_t> FirstInvalidUtf8(std::string_view text) {
  if (IsAscii(text)) return std::nullopt;
  const auto size = static_cast<int32_t>(text.size());
  for (int32_t i = 0; i < size;) {
    const int32_t begin = i;
    UChar32 c;
    U8_NEXT(text.data(), i, size, c);
    if (c < 0) return static_cast<size_t>(begin);
  }
  return std::nullopt;
}

void CleanUnicode(std::string* text, TextChanges* changes) {
  int64_t& normalized = (*changes)[static_cast<size_t>(TextChange::kNormalized)];
  normalized += Normalize(text);
  *text = Sweeper(*text, changes).Run();
  // Taking out what stood between a letter and its mark may have made them neighbours.
  normalized += Normalize(text);
}

void Lowercase(std::string* text, TextChanges* changes) {
  int64_t upper = 0;
  const auto size = static_cast<int32_t>(text->size());
  for (int32_t i = 0; i < size;) {
    UChar32 c;
    U8_NEXT(text->data(), i, size, c);
    if (c >= 0 && u_tolower(c) != c) ++upper;
  }
  if (upper == 0) return;
  (*changes)[static_cast<size_t>(TextChange::kLowercase)] += upper;
  std::string lower;
  lower.reserve(text->size());
  icu::StringByteSink<std::string> sink(&lower);
  UErrorCode error = U_ZERO_ERROR;
  icu::CaseMap::utf8ToLower("", 0, Piece(*text), sink, nullptr, error);
  CHECK(U_SUCCESS(error)) << u_errorName(error);
  *text = std::move(lower);
  Normalize(text);
}

}  // namespace trireme
