#include "cluster/comm/packet.h"

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

PacketHeader ReadHeader(std::span<const std::byte> packet) {
  PacketHeader header;
  std::memcpy(&header, packet.data(), sizeof(header));
  return header;
}

Status CheckPacket(std::span<const std::byte> packet, int source) {
  const auto refuse = [&](const auto&... what) {
    return DataLossError(
        StrCat("a packet of ", packet.size(), " bytes from world rank ", source, ": ", what...));
  };
  if (packet.size() < sizeof(PacketHeader)) {
    return refuse("expected at least ", sizeof(PacketHeader));
  }
  const PacketHeader header = ReadHeader(packet);
  if (header.type > PacketType::kGivenUp) {
    return refuse("unknown type ", static_cast<int>(header.type));
  }
  if (header.bytes < 0 || header.prefix < 0 || header.prefix > header.bytes) {
    return refuse("bytes [0, ", header.prefix, ") of a message of ", header.bytes);
  }
  const auto behind = static_cast<int64_t>(packet.size() - sizeof(PacketHeader));
  if (header.type == PacketType::kEager) {
    return behind == header.bytes ? OkStatus() : refuse("expected a message of ", header.bytes);
  }
  if (behind == 0) return OkStatus();
  if (header.type != PacketType::kAnnounce) return refuse("expected a header alone");
  constexpr int64_t kSegment = sizeof(StreamLayout::Segment);
  int64_t left = header.bytes;
  for (int64_t at = 0; at + kSegment <= behind; at += kSegment) {
    StreamLayout::Segment segment;
    std::memcpy(&segment, packet.data() + sizeof(header) + at, kSegment);
    if (segment.bytes < 0 || segment.bytes > left) return refuse("a segment of ", segment.bytes);
    left -= segment.bytes;
  }
  if (behind % kSegment != 0 || left != 0) {
    return refuse("segments that do not make up ", header.bytes, " bytes");
  }
  return OkStatus();
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
  if (!segments.empty()) {
    std::memcpy(segments.data(), packet.data() + sizeof(PacketHeader),
                segments.size() * sizeof(segments[0]));
  }
  return StreamLayout(std::move(segments));
}

}  // namespace trireme
