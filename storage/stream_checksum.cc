#include "storage/stream_checksum.h"

#include <glog/logging.h>
#include <xxhash.h>

namespace trireme {

struct StreamChecksum::State {
  XXH3_state_t* xxh = XXH3_createState();
  ~State() { XXH3_freeState(xxh); }
};

StreamChecksum::StreamChecksum() : state_(std::make_unique<State>()) {
  CHECK_EQ(XXH3_64bits_reset(state_->xxh), XXH_OK);
}
StreamChecksum::~StreamChecksum() = default;

void StreamChecksum::Update(std::span<const std::byte> bytes) {
  XXH3_64bits_update(state_->xxh, bytes.data(), bytes.size());
}

uint64_t StreamChecksum::Value() const { return XXH3_64bits_digest(state_->xxh); }

}  // namespace trireme
