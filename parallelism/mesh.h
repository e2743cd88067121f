// Mesh: the workers as a grid of named axes, and who holds which region of a named global tensor.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "cluster/base/box.h"

namespace trireme {

enum class Axis : uint8_t { kTensor, kContext, kData, kPipeline };
inline constexpr int kAxisCount = 4;
const char* AxisName(Axis axis);

// A point of the mesh: the index along each axis, in the order of Axis.
using MeshPoint = std::array<int, kAxisCount>;

// Logical ranks 0 .. size-1 in a grid; the tensor axis varies fastest, the pipeline axis slowest.
// Logical ranks are places: HostMap says which process stands on which.
class Mesh {
 public:
  Mesh() : Mesh(1, 1, 1, 1) {}
  Mesh(int data, int tensor, int pipeline, int context = 1);

  int size() const;
  int size(Axis axis) const { return sizes_[static_cast<int>(axis)]; }
  MeshPoint PointOf(int rank) const;
  int RankOf(const MeshPoint& point) const;
  int Index(int rank, Axis axis) const { return PointOf(rank)[static_cast<int>(axis)]; }
  // The logical ranks that differ from `rank` along `axis` alone, ascending, itself among them.
  std::vector<int> Group(int rank, Axis axis) const;
  // "data 2 x tensor 2 x pipeline 1".
  std::string ToString() const;

 private:
  std::array<int, kAxisCount> sizes_;
};

// Which worker process (world rank of the transport) stands on each logical rank, in one
// generation.
struct HostMap {
  uint64_t generation = 0;
  std::vector<int> world_rank_of;  // by logical rank
};

// How a tensor is cut along one axis: dim `dim` is first cut into `parts` fixed pieces (piece p is
// [p * extent / parts, (p + 1) * extent / parts)), which are dealt to the ranks of the axis in
// consecutive runs. With fewer parts than ranks, several ranks hold the same piece (KV heads).
struct ShardAlong {
  Axis axis;
  int dim;
  int64_t parts;
};

// The cuts of a tensor, applied in order, each to what the ones before left (ZeRO cuts what tensor
// parallelism left). Axes that are not named hold copies.
struct Placement {
  std::vector<ShardAlong> shards;
};

// The only code that says which box of a global tensor a logical rank holds.
Box LocalRegion(const Shape& shape, const Placement& placement, const Mesh& mesh, int rank);

// True for exactly one of the ranks of a pipeline stage that hold the same region: the lowest
// along every axis that does not cut the tensor, and the first of those that share a piece.
bool IsFirstHolder(const Placement& placement, const Mesh& mesh, int rank);

// `placement` with ZeRO's cut: rows of dim 0 of what it leaves to this rank, over the data axis, at
// the edges of row blocks.
Placement WithDataCut(const Shape& shape, const Placement& placement, const Mesh& mesh, int rank);

// The rows of this rank's local region that it updates and writes to checkpoints; empty on data
// ranks that no row block is left for. Over the data axis the owned regions tile the local one.
Box OwnedRegion(const Shape& shape, const Placement& placement, const Mesh& mesh, int rank);

// The number of fixed row blocks a tensor is cut into for ZeRO and for norms: min(64, rows). Cuts
// fall on block edges alone, so that sums over blocks do not depend on the cut (docs: order of
// sums).
int64_t RowBlocks(int64_t rows);

}  // namespace trireme
