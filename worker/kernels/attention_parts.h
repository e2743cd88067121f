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

// What a part may take: `usual`, or for the smallest one as much as a GPU of so much memory has
// room for. Without workspace it would run on the own kernel, many times slower.
inline int64_t PartBytesMax(const AttentionPart& part, int64_t usual, int64_t memory_bytes) {
  return SmallerPart(part) ? usual : std::max(usual, memory_bytes / 8);
}

// The largest part that takes no more than it may; nothing where none does.
inline std::optional<AttentionPart> PartThatFits(const AttentionPart& whole, int64_t group,
                                                 int64_t length, int64_t memory_bytes) {
  for (std::optional<AttentionPart> part = whole; part; part = SmallerPart(*part)) {
    const int64_t bytes_max = PartBytesMax(*part, kAttentionWorkspaceMax, memory_bytes);
    if (AttentionWorkspace(*part, group, length) <= bytes_max) return part;
  }
  return std::nullopt;
}

}  // namespace trireme
