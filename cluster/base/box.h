// Box: a rectangular region of a named global tensor. Tensor parallelism, ZeRO, checkpoints and
// resharding all speak in boxes.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace trireme {

using Shape = std::vector<int64_t>;

int64_t ElementCount(const Shape& shape);
// "[256, 704]".
std::string ShapeToString(const Shape& shape);

struct Box {
  Shape offset;  // first element of each dim
  Shape extent;  // number of elements of each dim; any zero makes the box empty

  static Box Whole(const Shape& shape);
  int rank() const { return static_cast<int>(offset.size()); }
  int64_t elements() const { return ElementCount(extent); }
  bool empty() const { return elements() == 0; }
  // True when every element of `other` is in this box. An empty box is in every box.
  bool Contains(const Box& other) const;
  // "[0:128, 64:96]".
  std::string ToString() const;
  friend bool operator==(const Box&, const Box&) = default;
};

// The common part, or nothing when it is empty. Both boxes have the same rank.
std::optional<Box> Intersect(const Box& a, const Box& b);

// Copies the elements of `region` (in global coordinates) from `source`, which holds `source_box`
// row-major, to `target`, which holds `target_box`. CHECKs that both boxes contain the region.
void CopyRegion(const Box& region, const Box& source_box, const std::byte* source,
                const Box& target_box, std::byte* target, int64_t element_bytes);

// True when `parts` are disjoint and together make up the whole of `shape`.
bool TilesExactly(const Shape& shape, std::span<const Box> parts);

}  // namespace trireme
