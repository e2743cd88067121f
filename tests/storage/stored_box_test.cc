#include "storage/stored_box.h"

#include <gtest/gtest.h>

#include <numeric>

#include "cluster/base/rng.h"

namespace trireme {
namespace {

std::vector<float> Ascending(int64_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

TEST(StoredBoxTest, AnyRegionOfAnyBoxIsRead) {
  auto store = NewMemoryStore();
  const CounterRng rng(5, RngUse::kTest, 2);
  uint64_t draw = 0;
  const auto random_box = [&](const Box& inside) {
    Box box = inside;
    for (int d = 0; d < box.rank(); ++d) {
      const int64_t begin = rng.Below(inside.extent[d], draw++);
      box.offset[d] += begin;
      box.extent[d] = 1 + rng.Below(inside.extent[d] - begin, draw++);
    }
    return box;
  };
  const Shape shape = {6, 5, 4};
  for (int round = 0; round < 300; ++round) {
    const Box stored_box = random_box(Box::Whole(shape));
    const Box region = random_box(stored_box);
    const std::vector<float> values = Ascending(stored_box.elements());
    ASSERT_TRUE(store->Put("k", std::as_bytes(std::span(values))).ok());
    const StoredBox stored{"k", 0, DType::kF32, stored_box, "t"};
    const Box target = Box::Whole(shape);
    std::vector<float> out(target.elements(), -1), expected = out;
    ASSERT_TRUE(ReadStoredBox(*store, stored, region, DType::kF32, target,
                              std::as_writable_bytes(std::span(out)).data())
                    .ok());
    CopyRegion(region, stored_box, std::as_bytes(std::span(values)).data(), target,
               std::as_writable_bytes(std::span(expected)).data(), 4);
    ASSERT_EQ(out, expected) << stored_box.ToString() << " " << region.ToString();
    std::vector<double> doubles(region.elements());
    ASSERT_TRUE(ReadStoredBox(*store, stored, region, DType::kF64, region,
                              std::as_writable_bytes(std::span(doubles)).data())
                    .ok());
    std::vector<float> narrow(region.elements());
    CopyRegion(region, stored_box, std::as_bytes(std::span(values)).data(), region,
               std::as_writable_bytes(std::span(narrow)).data(), 4);
    ASSERT_EQ(std::vector<float>(doubles.begin(), doubles.end()), narrow);
  }
}

TEST(StoredBoxTest, LargeBoxesAreReadInBlocks) {
  auto store = NewMemoryStore();
  const Shape shape = {3000, 1024};  // 12 MiB: more than one block
  const std::vector<float> values = Ascending(ElementCount(shape));
  ASSERT_TRUE(store->Put("k", std::as_bytes(std::span(values))).ok());
  const Box region{{1, 1000}, {2999, 24}};
  std::vector<float> out(region.elements()), expected(region.elements());
  ASSERT_TRUE(ReadStoredBox(*store, {"k", 0, DType::kF32, Box::Whole(shape), "t"}, region,
                            DType::kF32, region, std::as_writable_bytes(std::span(out)).data())
                  .ok());
  CopyRegion(region, Box::Whole(shape), std::as_bytes(std::span(values)).data(), region,
             std::as_writable_bytes(std::span(expected)).data(), 4);
  EXPECT_EQ(out, expected);
}

TEST(StoredBoxTest, ScalarsAreBoxesToo) {
  auto store = NewMemoryStore();
  const float value = 3.5f;
  ASSERT_TRUE(store->Put("k", std::as_bytes(std::span(&value, 1))).ok());
  double out = 0;
  ASSERT_TRUE(ReadStoredBox(*store, {"k", 0, DType::kF32, {}, "t"}, {}, DType::kF64, {},
                            reinterpret_cast<std::byte*>(&out))
                  .ok());
  EXPECT_EQ(out, 3.5);
}

TEST(StoredBoxTest, ATruncatedObjectNamesTheTensor) {
  auto store = NewMemoryStore();
  ASSERT_TRUE(PutText(*store, "k", "12345678").ok());
  std::vector<std::byte> out(16);
  const Status status = ReadStoredBox(*store, {"k", 0, DType::kF32, Box::Whole({4}), "w"},
                                      Box::Whole({4}), DType::kF32, Box::Whole({4}), out.data());
  EXPECT_EQ(status.code(), StatusCode::kDataLoss);
  EXPECT_EQ(status.message(), "tensor w: memory:///k: 8 bytes, expected at least 16");
}

// The elements of a box of a view, read as boxes of the published tensor, are the same elements.
TEST(PublishedBoxesTest, ViewsAndPublishedTensorsHoldTheSameElements) {
  const std::pair<Shape, Shape> cases[] = {
      {{4, 3, 6}, {4, 18}}, {{3, 6}, {18}},   {{2, 3, 4}, {24}},     {{2, 3, 4, 5}, {6, 20}},
      {{1, 4, 2}, {1, 8}},  {{4, 6}, {4, 6}}, {{2, 2, 3, 1}, {4, 3}}};
  const CounterRng rng(6, RngUse::kTest, 3);
  uint64_t draw = 0;
  for (const auto& [view_shape, published_shape] : cases) {
    for (int round = 0; round < 50; ++round) {
      Box box = Box::Whole(view_shape);
      for (int d = 0; d < box.rank(); ++d) {
        const int64_t begin = rng.Below(view_shape[d], draw++);
        box.offset[d] = begin;
        box.extent[d] = 1 + rng.Below(view_shape[d] - begin, draw++);
      }
      const std::vector<float> all = Ascending(ElementCount(view_shape));
      const std::byte* source = std::as_bytes(std::span(all)).data();
      std::vector<float> expected(box.elements()), actual(box.elements(), -1);
      CopyRegion(box, Box::Whole(view_shape), source, box,
                 std::as_writable_bytes(std::span(expected)).data(), 4);
      int64_t elements = 0;
      for (const ViewedBox& part : PublishedBoxes(view_shape, published_shape, box)) {
        ASSERT_EQ(part.view.elements(), part.published.elements());
        elements += part.view.elements();
        std::vector<float> piece(part.view.elements());
        CopyRegion(part.published, Box::Whole(published_shape), source, part.published,
                   std::as_writable_bytes(std::span(piece)).data(), 4);
        CopyRegion(part.view, part.view, std::as_bytes(std::span(piece)).data(), box,
                   std::as_writable_bytes(std::span(actual)).data(), 4);
      }
      ASSERT_EQ(elements, box.elements());
      ASSERT_EQ(actual, expected) << ShapeToString(view_shape) << " " << box.ToString();
    }
  }
  EXPECT_EQ(PublishedBoxes({4, 3, 6}, {4, 18}, Box::Whole({4, 3, 6})).size(), 1u);
  EXPECT_EQ(PublishedBoxes({4, 3, 6}, {4, 18}, {{0, 0, 2}, {4, 3, 2}}).size(), 3u);
}

}  // namespace
}  // namespace trireme
