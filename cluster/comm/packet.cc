#include "cluster/comm/packet.h"

#include <glog/logging.h>

#include <cstring>
#include <utility>

namespace trireme {

PacketHeader HeaderOf(const Transfer& transfer, PacketType type) {
  PacketHeader header = {};
  header.type = type;
  header.operation = transfer.operation;
  header.collective = transfer.key.collective;
  header.slot = transfer.key.slot;
  header.sequence = transfer.key.sequence;
  header.generation = transfer.key.generation;
  header.bytes = transfer.layout.bytes();
  header.group = transfer.key.group;
  return header;
}

PacketHeader ReadHeader(std::span<const std::byte> packet, int source) {
  PacketHeader header;
  CHECK_GE(packet.size(), sizeof(header)) << "a packet from world rank " << source;
  std::memcpy(&header, packet.data(), sizeof(header));
  return header;
}

void WriteHeader(const PacketHeader& header, Packet* packet) {
  std::memcpy(packet->data(), &header, sizeof(header));
}

Packet EagerPacket(const Transfer& transfer, Packet packet) {
  const PacketHeader header = HeaderOf(transfer, PacketType::kEager);
  packet.resize(sizeof(header) + header.bytes);
  WriteHeader(header, &packet);
  for (int64_t offset = 0; offset < header.bytes;) {
    const int64_t end = transfer.layout.ContiguousEnd(offset);
    std::memcpy(packet.data() + sizeof(header) + offset, transfer.layout.At(offset), end - offset);
    offset = end;
  }
  return packet;
}

bool SegmentsFitPacket(const Transfer& transfer) {
  return static_cast<int64_t>(transfer.layout.segments().size() * sizeof(StreamLayout::Segment)) <=
         kEagerBytes;
}

Packet AnnouncePacket(const Transfer& transfer, bool with_segments, Packet packet) {
  PacketHeader header = HeaderOf(transfer, PacketType::kAnnounce);
  header.prefix = transfer.limit;
  const auto& segments = transfer.layout.segments();
  const size_t extra = with_segments ? segments.size() * sizeof(segments[0]) : 0;
  packet.resize(sizeof(header) + extra);
  WriteHeader(header, &packet);
  if (extra > 0) std::memcpy(packet.data() + sizeof(header), segments.data(), extra);
  return packet;
}

StreamLayout AnnouncedSegments(std::span<const std::byte> packet) {
  std::vector<StreamLayout::Segment> segments((packet.size() - sizeof(PacketHeader)) /
                                              sizeof(StreamLayout::Segment));
  std::memcpy(segments.data(), packet.data() + sizeof(PacketHeader),
              segments.size() * sizeof(segments[0]));
  return StreamLayout(std::move(segments));
}

}  // namespace trireme
