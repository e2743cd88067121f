// XXH3 checksums of bytes: 64 bits for chunks and frames, 128 for content hashes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace trireme {

uint64_t Checksum64(std::span<const std::byte> bytes);
uint64_t Checksum64(std::string_view text);
// Sixteen lower-case hexadecimal digits.
std::string ChecksumHex(uint64_t checksum);

// A 128-bit hash fed in pieces; where the pieces are cut does not matter.
class ContentHasher {
 public:
  ContentHasher();
  ~ContentHasher();
  ContentHasher(ContentHasher&&) noexcept;
  ContentHasher& operator=(ContentHasher&&) noexcept;

  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text);
  void Update(uint64_t value);  // little endian
  // 32 hexadecimal digits of all that was fed so far.
  std::string Hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace trireme
