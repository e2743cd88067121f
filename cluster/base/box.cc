#include "cluster/base/box.h"

#include <glog/logging.h>

#include <algorithm>
#include <cstring>
#include <sstream>

namespace trireme {

int64_t ElementCount(const Shape& shape) {
  int64_t count = 1;
  for (int64_t extent : shape) count *= extent;
  return count;
}

std::string ShapeToString(const Shape& shape) {
  std::ostringstream out;
  out << '[';
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  out << ']';
  return out.str();
}

Box Box::Whole(const Shape& shape) { return {Shape(shape.size(), 0), shape}; }

bool Box::Contains(const Box& other) const {
  if (other.empty()) return true;
  if (other.rank() != rank()) return false;
  for (int d = 0; d < rank(); ++d) {
    if (other.offset[d] < offset[d] || other.offset[d] + other.extent[d] > offset[d] + extent[d]) {
      return false;
    }
  }
  return true;
}

std::string Box::ToString() const {
  std::ostringstream out;
  out << '[';
  for (int d = 0; d < rank(); ++d) {
    // Also of boxes that a damaged file describes: the sum wraps, and is wrong to be told anyway.
    const auto end =
        static_cast<int64_t>(static_cast<uint64_t>(offset[d]) + static_cast<uint64_t>(extent[d]));
    out << (d ? ", " : "") << offset[d] << ':' << end;
  }
  out << ']';
  return out.str();
}

std::optional<Box> Intersect(const Box& a, const Box& b) {
  CHECK_EQ(a.rank(), b.rank());
  Box common{Shape(a.rank()), Shape(a.rank())};
  for (int d = 0; d < a.rank(); ++d) {
    const int64_t begin = std::max(a.offset[d], b.offset[d]);
    const int64_t end = std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]);
    if (end <= begin) return std::nullopt;
    common.offset[d] = begin;
    common.extent[d] = end - begin;
  }
  return common;
}

namespace {

// Index of the element at `point` (global coordinates) in the row-major memory of `box`.
int64_t IndexIn(const Box& box, const Shape& point) {
  int64_t index = 0;
  for (int d = 0; d < box.rank(); ++d) {
    index = index * box.extent[d] + (point[d] - box.offset[d]);
  }
  return index;
}

}  // namespace

void CopyRegion(const Box& region, const Box& source_box, const std::byte* source,
                const Box& target_box, std::byte* target, int64_t element_bytes) {
  if (region.empty()) return;
  CHECK(source_box.Contains(region)) << source_box.ToString() << " " << region.ToString();
  CHECK(target_box.Contains(region)) << target_box.ToString() << " " << region.ToString();
  const int rank = region.rank();
  // One memcpy a row of the last dim; dims before it are walked like an odometer.
  const int64_t row_bytes = (rank == 0 ? 1 : region.extent[rank - 1]) * element_bytes;
  Shape point = region.offset;
  while (true) {
    std::memcpy(target + IndexIn(target_box, point) * element_bytes,
                source + IndexIn(source_box, point) * element_bytes, row_bytes);
    int d = rank - 2;
    for (; d >= 0; --d) {
      if (++point[d] < region.offset[d] + region.extent[d]) break;
      point[d] = region.offset[d];
    }
    if (d < 0) return;
  }
}

bool TilesExactly(const Shape& shape, std::span<const Box> parts) {
  const Box whole = Box::Whole(shape);
  int64_t covered = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].empty()) continue;
    if (!whole.Contains(parts[i])) return false;
    covered += parts[i].elements();
    for (size_t j = 0; j < i; ++j) {
      if (!parts[j].empty() && Intersect(parts[i], parts[j])) return false;
    }
  }
  return covered == whole.elements();
}

}  // namespace trireme
