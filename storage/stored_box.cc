#include "storage/stored_box.h"

#include <algorithm>
#include <optional>

#include "storage/element_conversion.h"

namespace trireme {
namespace {

// Elements of one row: all dims but the first.
int64_t RowElements(const Box& box) {
  int64_t count = 1;
  for (int d = 1; d < box.rank(); ++d) count *= box.extent[d];
  return count;
}

// True when the region has whole rows of the box: it is one run of bytes there.
bool HasWholeRows(const Box& box, const Box& region) {
  for (int d = 1; d < box.rank(); ++d) {
    if (region.extent[d] != box.extent[d]) return false;
  }
  return true;
}

// Index, within a row of `box`, of the region's first element, and one past its last.
std::pair<int64_t, int64_t> RowSpan(const Box& box, const Box& region) {
  int64_t first = 0, last = 0;
  for (int d = 1; d < box.rank(); ++d) {
    const int64_t begin = region.offset[d] - box.offset[d];
    first = first * box.extent[d] + begin;
    last = last * box.extent[d] + begin + region.extent[d] - 1;
  }
  return {first, last + 1};
}

}  // namespace

Status ReadStoredBox(const ObjectStore& store, const StoredBox& stored, const Box& region,
                     DType target_dtype, const Box& target_box, std::byte* out) {
  if (region.empty()) return OkStatus();
  CHECK(stored.box.Contains(region)) << stored.box.ToString() << " " << region.ToString();
  CHECK(target_box.Contains(region)) << target_box.ToString() << " " << region.ToString();
  if (!CanConvert(stored.dtype, target_dtype)) {
    return DataLossError(StrCat(store.Describe(stored.key), ": tensor ", stored.name, " is ",
                                DTypeName(stored.dtype), ", expected ", DTypeName(target_dtype)));
  }
  const bool scalar = stored.box.rank() == 0;
  const int64_t element_bytes = ByteSize(stored.dtype);
  const int64_t row_elements = RowElements(stored.box);
  const int64_t row_begin = scalar ? 0 : region.offset[0] - stored.box.offset[0];
  const int64_t rows = scalar ? 1 : region.extent[0];
  const auto [span_begin, span_end] = RowSpan(stored.box, region);
  const auto read = [&](int64_t element, std::span<std::byte> bytes) {
    return store.Read(stored.key, stored.offset + element * element_bytes, bytes)
        .WithContext(StrCat("tensor ", stored.name));
  };

  if (stored.dtype == target_dtype && HasWholeRows(stored.box, region) &&
      HasWholeRows(target_box, region)) {
    const int64_t target_row = scalar ? 0 : region.offset[0] - target_box.offset[0];
    return read(row_begin * row_elements,
                {out + target_row * row_elements * element_bytes,
                 static_cast<size_t>(rows * row_elements * element_bytes)});
  }

  const int64_t block_rows =
      std::clamp<int64_t>(kObjectBlockBytes / (row_elements * element_bytes), int64_t{1}, rows);
  std::vector<std::byte> raw(block_rows * row_elements * element_bytes);
  std::vector<std::byte> converted;
  if (stored.dtype != target_dtype) {
    converted.resize(block_rows * row_elements * ByteSize(target_dtype));
  }
  for (int64_t begin = 0; begin < rows; begin += block_rows) {
    const int64_t count = std::min(block_rows, rows - begin);
    const int64_t elements = (count - 1) * row_elements + span_end - span_begin;
    std::byte* const data = raw.data() + span_begin * element_bytes;
    RETURN_IF_ERROR(read((row_begin + begin) * row_elements + span_begin,
                         {data, static_cast<size_t>(elements * element_bytes)}));
    const std::byte* source = raw.data();
    if (stored.dtype != target_dtype) {
      ConvertElements(stored.dtype, data, target_dtype,
                      converted.data() + span_begin * ByteSize(target_dtype), elements);
      source = converted.data();
    }
    Box block = stored.box, part = region;
    if (!scalar) {
      block.offset[0] = part.offset[0] = region.offset[0] + begin;
      block.extent[0] = part.extent[0] = count;
    }
    CopyRegion(part, block, source, target_box, out, ByteSize(target_dtype));
  }
  return OkStatus();
}

namespace {

// The view's dims [begin, end) that make up one published dim.
struct DimGroup {
  int begin, end;
};

std::optional<std::vector<DimGroup>> GroupDims(const Shape& view_shape,
                                               const Shape& published_shape) {
  std::vector<DimGroup> groups;
  int d = 0;
  const int rank = static_cast<int>(view_shape.size());
  for (size_t p = 0; p < published_shape.size(); ++p) {
    const int begin = d;
    int64_t product = 1;
    const bool last = p + 1 == published_shape.size();
    while (d < rank && (d == begin || product < published_shape[p] || last)) {
      product *= view_shape[d++];
    }
    if (product != published_shape[p]) return std::nullopt;
    groups.push_back({begin, d});
  }
  if (d != rank) return std::nullopt;
  return groups;
}

}  // namespace

bool IsViewOf(const Shape& view_shape, const Shape& published_shape) {
  return view_shape == published_shape || GroupDims(view_shape, published_shape).has_value();
}

std::vector<ViewedBox> PublishedBoxes(const Shape& view_shape, const Shape& published_shape,
                                      const Box& box) {
  if (view_shape == published_shape) return {{box, box}};
  if (box.empty()) return {};
  const auto found = GroupDims(view_shape, published_shape);
  CHECK(found) << ShapeToString(view_shape) << " is no view of " << ShapeToString(published_shape);
  const std::vector<DimGroup>& groups = *found;
  // Dims whose index must be fixed for the rest of their group to be one run: all before the last
  // dim that the box does not hold whole.
  std::vector<int> split;
  for (const DimGroup& group : groups) {
    int last_partial = group.begin;
    for (int d = group.begin; d < group.end; ++d) {
      if (box.extent[d] != view_shape[d]) last_partial = d;
    }
    for (int d = group.begin; d < last_partial; ++d) split.push_back(d);
  }
  std::vector<ViewedBox> result;
  Box part = box;
  for (const int d : split) part.extent[d] = 1;
  while (true) {
    Box published;
    for (const DimGroup& group : groups) {
      int64_t offset = 0, extent = 1;
      for (int d = group.begin; d < group.end; ++d) {
        offset = offset * view_shape[d] + part.offset[d];
        extent *= part.extent[d];
      }
      published.offset.push_back(offset);
      published.extent.push_back(extent);
    }
    result.push_back({part, published});
    int s = static_cast<int>(split.size()) - 1;
    for (; s >= 0; --s) {
      const int d = split[s];
      if (++part.offset[d] < box.offset[d] + box.extent[d]) break;
      part.offset[d] = box.offset[d];
    }
    if (s < 0) return result;
  }
}

}  // namespace trireme
