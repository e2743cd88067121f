// A limit on everything that a peer can make this process wait for or keep.
#pragma once

#include <cstddef>
#include <cstdint>

namespace trireme {

struct RpcLimits {
  size_t frame_bytes_max = size_t{64} << 20;   // payload of one message
  size_t queue_bytes_max = size_t{256} << 20;  // written by us, not yet read by the peer
  int64_t handshake_ms = 10'000;               // from connection to both sides proved
  int64_t frame_ms = 30'000;                   // from a frame's first byte to its last
  int64_t write_ms = 30'000;                   // for the peer to take one queued message
};

}  // namespace trireme
