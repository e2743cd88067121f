#include "worker/text/byte_level.h"

#include <array>

namespace trireme {
namespace {

constexpr int kAlphabetEnd = 0x144;  // one past the highest code point in use

struct Alphabet {
  std::array<uint32_t, 256> code_points;
  std::array<int16_t, kAlphabetEnd> bytes;

  Alphabet() {
    bytes.fill(-1);
    uint32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
                             (byte >= 0xae && byte <= 0xff);
      code_points[byte] = printable ? byte : next++;
      bytes[code_points[byte]] = static_cast<int16_t>(byte);
    }
  }
};

const Alphabet& GetAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

uint32_t ByteLevelCodePoint(uint8_t byte) { return GetAlphabet().code_points[byte]; }

std::string ByteLevelEncode(std::string_view bytes) {
  const Alphabet& alphabet = GetAlphabet();
  std::string spelling;
  spelling.reserve(bytes.size() + bytes.size() / 4);
  for (const char c : bytes) {
    const uint32_t code_point = alphabet.code_points[static_cast<uint8_t>(c)];
    if (code_point < 0x80) {
      spelling.push_back(static_cast<char>(code_point));
    } else {
      spelling.push_back(static_cast<char>(0xc0 | (code_point >> 6)));
      spelling.push_back(static_cast<char>(0x80 | (code_point & 0x3f)));
    }
  }
  return spelling;
}

bool ByteLevelDecode(std::string_view spelling, std::string* bytes) {
  const Alphabet& alphabet = GetAlphabet();
  bytes->clear();
  bytes->reserve(spelling.size());
  for (size_t i = 0; i < spelling.size(); ++i) {
    uint32_t code_point = static_cast<uint8_t>(spelling[i]);
    if (code_point >= 0x80) {  // the alphabet ends below U+0800: two bytes are all there can be
      if ((code_point & 0xe0) != 0xc0 || i + 1 == spelling.size()) return false;
      code_point = (code_point & 0x1f) << 6 | (static_cast<uint8_t>(spelling[++i]) & 0x3f);
    }
    if (code_point >= kAlphabetEnd || alphabet.bytes[code_point] < 0) return false;
    bytes->push_back(static_cast<char>(alphabet.bytes[code_point]));
  }
  return true;
}

}  // namespace trireme
