// Frames: how messages are cut out of a byte stream. Pure code, fed with bytes by a shell.
//
// A frame is a header of 20 bytes, little endian, and its payload:
//   magic 4 ("TRRM") | version 2 | type 2 | payload length 4 | XXH3-64 of the 12 bytes before and
//   the payload 8 | payload
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

inline constexpr size_t kFrameHeaderBytes = 20;
inline constexpr uint16_t kFrameVersion = 1;

struct Frame {
  uint16_t type = 0;
  std::string payload;
};

// The bytes of one frame. CHECKs that the payload's length fits into 32 bits.
std::string EncodeFrame(uint16_t type, std::string_view payload);

// Cuts a stream into frames. Holds at most one frame that is not complete yet; a header that
// announces more than the limit is refused before any of its payload is kept.
class FrameParser {
 public:
  explicit FrameParser(size_t payload_bytes_max) : payload_bytes_max_(payload_bytes_max) {}

  // Appends every frame that `bytes` completes to `frames`. kDataLoss names what was wrong (magic,
  // version, length, checksum); from then on the stream is lost and every call returns that error.
  Status Feed(std::string_view bytes, std::vector<Frame>* frames);

  // True between frames: nothing of a next one has been seen.
  bool AtBoundary() const { return buffer_.empty(); }
  // For frames whose header has not been read yet; a connection starts small and grows when its
  // peer has proved who it is.
  void set_payload_bytes_max(size_t bytes) { payload_bytes_max_ = bytes; }

 private:
  Status CheckHeader() const;

  size_t payload_bytes_max_;
  size_t need_ = kFrameHeaderBytes;  // bytes of buffer_ at which the next decision can be made
  std::string buffer_;
  Status error_;
};

}  // namespace trireme
