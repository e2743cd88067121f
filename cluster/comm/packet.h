// Packets: the small messages of a transport between processes. Small transfers travel whole in
// one; large ones are arranged by them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cluster/comm/message_transport.h"

namespace trireme {

enum class PacketType : uint8_t {
  kEager,          // to the receiver: the message itself follows
  kAnnounce,       // to the receiver: a large message; the addresses of its segments may follow
  kStaged,         // to the receiver: a message lies in the sender's staging area, from byte `tag`
  kReady,          // to the receiver: `prefix` of an announced message may be read
  kRefuseReceive,  // to the receiver: the sender has another message in mind
  kGrant,          // to the sender: chunks are awaited under `tag`
  kDone,           // to the sender: `prefix` of a message has been read, in `tag` microseconds
  kRefuseSend,     // to the sender: the receiver has another message in mind
  kGivenUp,        // to the sender: the receiver will not read on
};

struct PacketHeader {
  PacketType type;
  uint8_t operation;
  uint8_t collective;
  uint8_t unused;
  int32_t slot;
  uint32_t sequence;
  int32_t tag;
  uint64_t generation;
  int64_t bytes;  // of the whole message
  int64_t prefix;
  uint16_t group;
  uint16_t unused2[3];

  MessageKey key() const { return {generation, group, collective != 0, slot, sequence}; }
};
static_assert(sizeof(PacketHeader) == 48);

inline constexpr int64_t kPacketBytesMax = sizeof(PacketHeader) + kEagerBytes;

// A header, and what follows it.
using Packet = std::vector<std::byte>;

PacketHeader HeaderOf(const Transfer& transfer, PacketType type);
// Whether this can be a packet: its type, its sizes, and for announcements segments that make up
// the message. kDataLoss names world rank `source`.
Status CheckPacket(std::span<const std::byte> packet, int source);
// Of a packet that has been checked.
PacketHeader ReadHeader(std::span<const std::byte> packet);
void WriteHeader(const PacketHeader& header, Packet* packet);
// The whole message behind its header. `packet` is memory to reuse.
Packet EagerPacket(const Transfer& transfer, Packet packet);
// The addresses of a transfer's segments behind a header, and back. `packet` is memory to reuse.
Packet AnnouncePacket(const Transfer& transfer, bool with_segments, Packet packet);
StreamLayout AnnouncedSegments(std::span<const std::byte> packet);
// True when the segments' addresses fit a packet; the same at both ends.
bool SegmentsFitPacket(const Transfer& transfer);

}  // namespace trireme
