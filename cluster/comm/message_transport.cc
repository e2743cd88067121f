#include "cluster/comm/message_transport.h"

#include <glog/logging.h>

#include <algorithm>
#include <utility>

namespace trireme {

int64_t ChunkBytes(int64_t bytes) {
  constexpr int64_t kSmallest = 64 << 10;
  constexpr int64_t kLargest = 256 << 10;
  int64_t chunk = kSmallest;
  while (chunk < kLargest && chunk * 4 < bytes) chunk *= 2;
  return chunk;
}

StreamLayout::StreamLayout(std::vector<Segment> segments) {
  for (const Segment& segment : segments) {
    if (segment.bytes == 0) continue;
    bytes_ += segment.bytes;
    segments_.push_back(segment);
    ends_.push_back(bytes_);
  }
}

void StreamLayout::UseRing(std::byte* ring, int64_t ring_bytes) {
  CHECK(ring_bytes >= bytes_ || ring_bytes % ChunkBytes(bytes_) == 0)
      << "a chunk would wrap around the ring";
  ring_ = ring;
  ring_bytes_ = ring_bytes;
}

size_t StreamLayout::SegmentOf(int64_t offset) const {
  DCHECK_LT(offset, bytes_);
  return std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin();
}

std::byte* StreamLayout::At(int64_t offset) const {
  if (ring_ != nullptr) return ring_ + offset % ring_bytes_;
  const size_t s = SegmentOf(offset);
  return segments_[s].data + (offset - (ends_[s] - segments_[s].bytes));
}

int64_t StreamLayout::ContiguousEnd(int64_t offset) const {
  if (ring_ != nullptr) return std::min(bytes_, (offset / ring_bytes_ + 1) * ring_bytes_);
  return ends_[SegmentOf(offset)];
}

int64_t StreamLayout::ChunkEnd(int64_t offset) const {
  const int64_t chunk = ChunkBytes(bytes_);
  return std::min(ends_[SegmentOf(offset)], (offset / chunk + 1) * chunk);
}

}  // namespace trireme
