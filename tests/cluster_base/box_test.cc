#include "cluster/base/box.h"

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

namespace trireme {
namespace {

TEST(BoxTest, CopyRegionMovesExactlyTheRegion) {
  const Shape shape{4, 5, 6};
  std::vector<int> source(ElementCount(shape));
  std::iota(source.begin(), source.end(), 0);
  const Box target_box{{1, 1, 2}, {3, 3, 4}};
  const Box region{{2, 2, 3}, {1, 2, 2}};
  std::vector<int> target(target_box.elements(), -1);
  CopyRegion(region, Box::Whole(shape), reinterpret_cast<const std::byte*>(source.data()),
             target_box, reinterpret_cast<std::byte*>(target.data()), sizeof(int));
  int copied = 0;
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 3; ++j) {
      for (int k = 0; k < 4; ++k) {
        const int value = target[(i * 3 + j) * 4 + k];
        const bool inside = region.Contains({{i + 1, j + 1, k + 2}, {1, 1, 1}});
        EXPECT_EQ(value, inside ? ((i + 1) * 5 + j + 1) * 6 + k + 2 : -1);
        copied += inside;
      }
    }
  }
  EXPECT_EQ(copied, 4);
}

TEST(BoxTest, IntersectOfDisjointBoxesIsNothing) {
  EXPECT_FALSE(Intersect({{0, 0}, {2, 2}}, {{2, 0}, {2, 2}}).has_value());
  EXPECT_EQ(Intersect({{0, 0}, {3, 4}}, {{2, 1}, {5, 2}}), (Box{{2, 1}, {1, 2}}));
}

TEST(BoxTest, TilesExactlyRefusesGapsAndOverlaps) {
  const Shape shape{4, 4};
  const Box top{{0, 0}, {2, 4}}, bottom{{2, 0}, {2, 4}}, overlap{{1, 0}, {3, 4}};
  EXPECT_TRUE(TilesExactly(shape, std::vector{top, bottom}));
  EXPECT_FALSE(TilesExactly(shape, std::vector{top}));
  EXPECT_FALSE(TilesExactly(shape, std::vector{top, overlap}));
}

}  // namespace
}  // namespace trireme
