#include "worker/text/utf8_segments.h"

#include <simdjson.h>
#include <unicode/utf8.h>

namespace trireme {
namespace {

size_t ScalarValidPrefix(std::string_view text) {
  const auto size = static_cast<int64_t>(text.size());
  int64_t at = 0;
  while (at < size) {
    int64_t next = at;
    UChar32 code_point;
    U8_NEXT(text.data(), next, size, code_point);
    if (code_point < 0) break;
    at = next;
  }
  return static_cast<size_t>(at);
}

}  // namespace

size_t ValidUtf8Prefix(std::string_view text) {
  // Long stretches by vector code in blocks, so that a broken text is not scanned over and over.
  constexpr size_t kBlockBytes = size_t{1} << 16;
  if (text.size() <= 64) return ScalarValidPrefix(text);
  size_t valid = 0;
  while (valid < text.size()) {
    size_t block = std::min(kBlockBytes, text.size() - valid);
    if (valid + block < text.size()) {  // end before the start of a character
      for (int i = 0; i < 3 && (static_cast<uint8_t>(text[valid + block]) & 0xc0) == 0x80; ++i) {
        --block;
      }
    }
    if (!simdjson::validate_utf8(text.data() + valid, block)) {
      return valid + ScalarValidPrefix(text.substr(valid, block));
    }
    valid += block;
  }
  return valid;
}

}  // namespace trireme
