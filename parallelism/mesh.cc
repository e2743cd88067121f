#include "parallelism/mesh.h"

#include <glog/logging.h>

#include <algorithm>
#include <sstream>

namespace trireme {
namespace {

// The run [begin, end) of pieces that index `i` of an axis of `size` ranks holds.
struct PieceRun {
  int64_t begin;
  int64_t end;
};

PieceRun PiecesOf(int64_t parts, int size, int i) {
  CHECK_GT(parts, 0);
  if (parts >= size) return {i * parts / size, (i + 1) * parts / size};
  const int64_t piece = i * parts / size;  // shared with neighbours
  return {piece, piece + 1};
}

// Exact for any extent and parts that fit in 63 bits together, as pieces of tensors do.
int64_t PieceEdge(int64_t extent, int64_t parts, int64_t piece) { return piece * extent / parts; }

}  // namespace

const char* AxisName(Axis axis) {
  switch (axis) {
    case Axis::kTensor:
      return "tensor";
    case Axis::kContext:
      return "context";
    case Axis::kData:
      return "data";
    case Axis::kPipeline:
      return "pipeline";
  }
  return "?";
}

Mesh::Mesh(int data, int tensor, int pipeline, int context) {
  sizes_[static_cast<int>(Axis::kTensor)] = tensor;
  sizes_[static_cast<int>(Axis::kContext)] = context;
  sizes_[static_cast<int>(Axis::kData)] = data;
  sizes_[static_cast<int>(Axis::kPipeline)] = pipeline;
  for (int size : sizes_) CHECK_GT(size, 0);
}

int Mesh::size() const {
  int product = 1;
  for (int size : sizes_) product *= size;
  return product;
}

MeshPoint Mesh::PointOf(int rank) const {
  CHECK(rank >= 0 && rank < size()) << rank;
  MeshPoint point;
  for (int a = 0; a < kAxisCount; ++a) {
    point[a] = rank % sizes_[a];
    rank /= sizes_[a];
  }
  return point;
}

int Mesh::RankOf(const MeshPoint& point) const {
  int rank = 0;
  for (int a = kAxisCount - 1; a >= 0; --a) {
    CHECK(point[a] >= 0 && point[a] < sizes_[a]) << AxisName(static_cast<Axis>(a)) << point[a];
    rank = rank * sizes_[a] + point[a];
  }
  return rank;
}

std::vector<int> Mesh::Group(int rank, Axis axis) const {
  MeshPoint point = PointOf(rank);
  std::vector<int> members;
  for (int i = 0; i < size(axis); ++i) {
    point[static_cast<int>(axis)] = i;
    members.push_back(RankOf(point));
  }
  return members;
}

std::string Mesh::ToString() const {
  std::ostringstream out;
  out << "data " << size(Axis::kData) << " x tensor " << size(Axis::kTensor) << " x pipeline "
      << size(Axis::kPipeline);
  if (size(Axis::kContext) > 1) out << " x context " << size(Axis::kContext);
  return out.str();
}

Box LocalRegion(const Shape& shape, const Placement& placement, const Mesh& mesh, int rank) {
  Box box = Box::Whole(shape);
  for (const ShardAlong& shard : placement.shards) {
    CHECK(shard.dim >= 0 && shard.dim < box.rank()) << shard.dim << " of " << ShapeToString(shape);
    const PieceRun run = PiecesOf(shard.parts, mesh.size(shard.axis), mesh.Index(rank, shard.axis));
    const int64_t extent = box.extent[shard.dim];
    const int64_t begin = PieceEdge(extent, shard.parts, run.begin);
    const int64_t end = PieceEdge(extent, shard.parts, run.end);
    box.offset[shard.dim] += begin;
    box.extent[shard.dim] = end - begin;
  }
  return box;
}

bool IsFirstHolder(const Placement& placement, const Mesh& mesh, int rank) {
  for (int a = 0; a < kAxisCount; ++a) {
    const Axis axis = static_cast<Axis>(a);
    if (axis == Axis::kPipeline) continue;
    const int index = mesh.Index(rank, axis);
    bool differs_from_lower = index == 0;
    for (const ShardAlong& shard : placement.shards) {
      if (shard.axis != axis || index == 0) continue;
      const PieceRun own = PiecesOf(shard.parts, mesh.size(axis), index);
      differs_from_lower |= PiecesOf(shard.parts, mesh.size(axis), index - 1).begin != own.begin;
    }
    if (!differs_from_lower) return false;
  }
  return true;
}

Placement WithDataCut(const Shape& shape, const Placement& placement, const Mesh& mesh, int rank) {
  CHECK(!shape.empty());
  Placement cut = placement;
  const int64_t rows = LocalRegion(shape, placement, mesh, rank).extent[0];
  cut.shards.push_back({Axis::kData, 0, RowBlocks(rows)});
  return cut;
}

Box OwnedRegion(const Shape& shape, const Placement& placement, const Mesh& mesh, int rank) {
  const Placement cut = WithDataCut(shape, placement, mesh, rank);
  Box box = LocalRegion(shape, cut, mesh, rank);
  const int index = mesh.Index(rank, Axis::kData);
  const int64_t parts = cut.shards.back().parts;
  const int size = mesh.size(Axis::kData);
  // Fewer row blocks than ranks: the first of the ranks that would share one owns it.
  if (index > 0 && PiecesOf(parts, size, index - 1).begin == PiecesOf(parts, size, index).begin) {
    box.extent[0] = 0;
  }
  return box;
}

int64_t RowBlocks(int64_t rows) { return std::clamp<int64_t>(rows, 1, 64); }

}  // namespace trireme
