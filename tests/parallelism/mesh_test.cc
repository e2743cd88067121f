#include "parallelism/mesh.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "parallelism/parameter_layout.h"

namespace trireme {
namespace {

TEST(MeshTest, RanksAndPointsAreInverse) {
  const Mesh mesh(3, 2, 4, 2);
  EXPECT_EQ(mesh.size(), 48);
  for (int rank = 0; rank < mesh.size(); ++rank) {
    EXPECT_EQ(mesh.RankOf(mesh.PointOf(rank)), rank);
  }
  // The tensor axis varies fastest, the pipeline axis slowest.
  EXPECT_EQ(mesh.Index(1, Axis::kTensor), 1);
  EXPECT_EQ(mesh.Index(2, Axis::kContext), 1);
  EXPECT_EQ(mesh.Index(4, Axis::kData), 1);
  EXPECT_EQ(mesh.Index(12, Axis::kPipeline), 1);
  EXPECT_EQ(Mesh(2, 2, 1).ToString(), "data 2 x tensor 2 x pipeline 1");
}

TEST(MeshTest, GroupsOfAnAxisPartitionTheWorld) {
  const Mesh mesh(3, 2, 4, 2);
  for (Axis axis : {Axis::kTensor, Axis::kContext, Axis::kData, Axis::kPipeline}) {
    std::multiset<int> seen;
    for (int rank = 0; rank < mesh.size(); ++rank) {
      const std::vector<int> group = mesh.Group(rank, axis);
      EXPECT_EQ(static_cast<int>(group.size()), mesh.size(axis));
      EXPECT_TRUE(std::is_sorted(group.begin(), group.end()));
      EXPECT_EQ(group[mesh.Index(rank, axis)], rank);
      if (group[0] == rank) seen.insert(group.begin(), group.end());
    }
    EXPECT_EQ(static_cast<int>(seen.size()), mesh.size());
    EXPECT_EQ(std::set<int>(seen.begin(), seen.end()).size(), seen.size());
  }
}

TEST(PlacementTest, RegionsTileTheTensorExactlyOnce) {
  for (int size = 1; size <= 8; ++size) {
    for (int64_t extent : {1, 5, 8, 13, 64}) {
      for (int64_t parts : {8, 9, 13}) {
        const Mesh mesh(1, size, 1);
        const Shape shape{3, extent};
        std::vector<Box> boxes;
        for (int rank = 0; rank < size; ++rank) {
          boxes.push_back(LocalRegion(shape, {{{Axis::kTensor, 1, parts}}}, mesh, rank));
        }
        EXPECT_TRUE(TilesExactly(shape, boxes)) << size << " " << extent << " " << parts;
      }
    }
  }
}

TEST(PlacementTest, FewerPartsThanRanksGiveSharedPieces) {
  const Mesh mesh(1, 4, 1);
  const Placement kv_heads{{{Axis::kTensor, 0, 2}}};
  const Shape shape{6, 10};
  const std::vector<Box> expected = {
      {{0, 0}, {3, 10}}, {{0, 0}, {3, 10}}, {{3, 0}, {3, 10}}, {{3, 0}, {3, 10}}};
  const std::vector<bool> first = {true, false, true, false};
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(LocalRegion(shape, kv_heads, mesh, rank), expected[rank]) << rank;
    EXPECT_EQ(IsFirstHolder(kv_heads, mesh, rank), first[rank]) << rank;
  }
}

TEST(PlacementTest, FirstHoldersTileTheTensorExactlyOnce) {
  for (int tensor = 1; tensor <= 8; ++tensor) {
    for (int64_t parts = 1; parts <= 9; ++parts) {
      const Mesh mesh(2, tensor, 3, 2);
      const Placement placement{{{Axis::kTensor, 1, parts}}};
      const Shape shape{2, 18};
      for (int stage = 0; stage < 3; ++stage) {
        std::vector<Box> boxes;
        for (int rank = 0; rank < mesh.size(); ++rank) {
          if (mesh.Index(rank, Axis::kPipeline) != stage) continue;
          if (!IsFirstHolder(placement, mesh, rank)) continue;
          boxes.push_back(LocalRegion(shape, placement, mesh, rank));
        }
        EXPECT_TRUE(TilesExactly(shape, boxes)) << tensor << " " << parts;
      }
    }
  }
}

TEST(PlacementTest, OwnedRowsTileTheLocalRegionAndFallOnBlockEdges) {
  for (int data = 1; data <= 8; ++data) {
    for (int64_t rows : {1, 2, 7, 64, 65, 100, 1000}) {
      const Mesh mesh(data, 2, 1);
      const Shape shape{2 * rows, 3};
      const Placement placement{{{Axis::kTensor, 0, 2}}};
      std::vector<Box> boxes;
      for (int rank = 0; rank < mesh.size(); ++rank) {
        const Box local = LocalRegion(shape, placement, mesh, rank);
        const Box owned = OwnedRegion(shape, placement, mesh, rank);
        boxes.push_back(owned);
        if (owned.empty()) continue;
        EXPECT_TRUE(local.Contains(owned));
        const int64_t blocks = RowBlocks(rows);
        std::set<int64_t> edges;
        for (int64_t b = 0; b <= blocks; ++b) edges.insert(b * rows / blocks);
        const int64_t begin = owned.offset[0] - local.offset[0];
        EXPECT_TRUE(edges.count(begin)) << begin;
        EXPECT_TRUE(edges.count(begin + owned.extent[0])) << begin + owned.extent[0];
      }
      EXPECT_TRUE(TilesExactly(shape, boxes)) << data << " " << rows;
    }
  }
}

// Every element has a place of its own, wherever it is held, and the same one in all layouts of a
// tensor degree.
TEST(ParameterLayoutTest, ElementsAreLaidEndToEnd) {
  ParameterSpec rows{"rows", {67, 4}, {67, 4}, {{{Axis::kTensor, 0, 67}}}, {0, 1}, 2};
  ParameterSpec columns{"columns", {5, 3, 16}, {5, 48}, {{{Axis::kTensor, 2, 4}}}, {0}};
  ParameterSpec shared{"shared", {6, 10}, {6, 10}, {{{Axis::kTensor, 0, 2}}}, {1}};
  ParameterSpec copied{"copied", {9}, {9}, {}, {1}};
  const std::vector<ParameterSpec> specs = {rows, columns, shared, copied};
  for (const int tensor : {1, 2, 4}) {
    std::map<std::pair<int, std::vector<int64_t>>, int64_t> first_of;  // id and offset
    std::map<int64_t, int64_t> ends;                                   // by begin
    for (const int data : {1, 3}) {
      const Mesh mesh(data, tensor, 2);
      for (int rank = 0; rank < mesh.size(); ++rank) {
        const ParameterLayout layout = MakeParameterLayout(specs, mesh, rank, 1, {}, 1 << 20);
        const std::vector<int64_t> first = FirstElements(specs, layout);
        for (const LocalParameter& local : layout.locals) {
          const auto [at, is_new] =
              first_of.try_emplace({local.id, local.region.offset}, first[local.id]);
          EXPECT_EQ(at->second, first[local.id]) << specs[local.id].name;
          if (is_new) ends[first[local.id]] = first[local.id] + local.elements();
        }
      }
    }
    int64_t end = 0, elements = 0;
    for (const auto& [begin, region_end] : ends) {
      EXPECT_GE(begin, end);
      end = region_end;
      elements += region_end - begin;
    }
    EXPECT_EQ(elements, 67 * 4 + 5 * 48 + 6 * 10 + 9) << tensor;
  }
}

TEST(PlacementTest, RowBlocksAreAtMostSixtyFour) {
  EXPECT_EQ(RowBlocks(1), 1);
  EXPECT_EQ(RowBlocks(63), 63);
  EXPECT_EQ(RowBlocks(64), 64);
  EXPECT_EQ(RowBlocks(100000), 64);
}

}  // namespace
}  // namespace trireme
