// cuDNN's deterministic backward pass of attention takes workspace that grows with the square of
// the length. What would take too much of it goes in equal parts, one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>

namespace trireme {

inline constexpr int64_t kAttentionWorkspaceMax = int64_t{4} << 30;  // bytes

// What one call works on: whole sequences, or some key heads of one sequence with their query
// heads.
struct AttentionPart {
  int64_t sequences, key_heads;
  bool operator==(const AttentionPart&) const = default;
};

// Bytes on GPUs that need them (Hopper): the gradients of all scores, in bf16. group: query heads
// of a key head.
inline int64_t AttentionWorkspace(const AttentionPart& part, int64_t group, int64_t length) {
  const int64_t padded = (length + 63) / 64 * 64;
  return 2 * part.sequences * part.key_heads * group * padded * padded;
}

// The next smaller part of which a whole number makes this one; nothing where it is one key head.
inline std::optional<AttentionPart> SmallerPart(AttentionPart part) {
  int64_t& count = part.sequences > 1 ? part.sequences : part.key_heads;
  if (count <= 1) return std::nullopt;
  int64_t factor = 2;
  while (count % factor != 0) ++factor;
  count /= factor;
  return part;
}

// What the smallest part may take on a GPU of so much memory: without workspace it would run on the
// own kernel, many times slower.
inline int64_t SmallestPartBytesMax(int64_t memory_bytes) {
  return std::max(kAttentionWorkspaceMax, memory_bytes / 8);
}

// The largest part that takes no more than kAttentionWorkspaceMax, or the smallest one where the
// GPU has room for it; else nothing.
inline std::optional<AttentionPart> PartThatFits(const AttentionPart& whole, int64_t group,
                                                 int64_t length, int64_t memory_bytes) {
  std::optional<AttentionPart> part = whole;
  while (AttentionWorkspace(*part, group, length) > kAttentionWorkspaceMax) {
    const std::optional<AttentionPart> smaller = SmallerPart(*part);
    if (smaller) {
      part = smaller;
      continue;
    }
    const int64_t bytes_max = SmallestPartBytesMax(memory_bytes);
    return AttentionWorkspace(*part, group, length) <= bytes_max ? part : std::nullopt;
  }
  return part;
}

}  // namespace trireme
