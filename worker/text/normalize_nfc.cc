#include "worker/text/normalize_nfc.h"

#include <unicode/bytestream.h>

#include <algorithm>

#include "worker/text/icu_nfc.h"

namespace trireme {
namespace {

constexpr size_t kIcuBytesMax = size_t{1} << 30;  // ICU counts in 32 bits

// Everything below U+0300 is in NFC wherever it stands; its lead bytes end at 0xCB.
bool AllBelowCombining(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<uint8_t>(c) >= 0xcc; });
}

}  // namespace

std::string_view NormalizeNfc(std::string_view text, std::string* buffer) {
  if (AllBelowCombining(text)) return text;
  CHECK_LE(text.size(), kIcuBytesMax) << "a text of more than 1 GiB cannot be normalised";
  const icu::StringPiece piece(text.data(), static_cast<int32_t>(text.size()));
  UErrorCode error = U_ZERO_ERROR;
  if (IcuNfc().isNormalizedUTF8(piece, error) && U_SUCCESS(error)) return text;
  error = U_ZERO_ERROR;
  buffer->clear();
  icu::StringByteSink<std::string> sink(buffer, static_cast<int32_t>(text.size()));
  IcuNfc().normalizeUTF8(0, piece, sink, nullptr, error);
  CHECK(U_SUCCESS(error)) << "NFC: " << u_errorName(error);
  return *buffer;
}

}  // namespace trireme
