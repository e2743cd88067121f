#include "cluster/base/checksum.h"

#include <glog/logging.h>
#include <xxhash.h>

#include <cstdio>

namespace trireme {

uint64_t Checksum64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

uint64_t Checksum64(std::string_view text) { return XXH3_64bits(text.data(), text.size()); }

std::string ChecksumHex(uint64_t checksum) {
  char text[17];
  snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(checksum));
  return text;
}

struct ContentHasher::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

ContentHasher::ContentHasher() : state_(std::make_unique<State>()) {
  CHECK_EQ(XXH3_128bits_reset(state_->xxh), XXH_OK);
}
ContentHasher::~ContentHasher() = default;
ContentHasher::ContentHasher(ContentHasher&&) noexcept = default;
ContentHasher& ContentHasher::operator=(ContentHasher&&) noexcept = default;

void ContentHasher::Update(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_->xxh, bytes.data(), bytes.size());
}

void ContentHasher::Update(std::string_view text) {
  XXH3_128bits_update(state_->xxh, text.data(), text.size());
}

void ContentHasher::Update(uint64_t value) {
  unsigned char bytes[8];
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<unsigned char>(value >> (8 * i));
  XXH3_128bits_update(state_->xxh, bytes, sizeof(bytes));
}

std::string ContentHasher::Hex() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(state_->xxh);
  return ChecksumHex(hash.high64) + ChecksumHex(hash.low64);
}

}  // namespace trireme
