#include "tests/cuda_kernels/device_testing.h"
#include "worker/kernels/embedding.h"

namespace trireme {
namespace {

constexpr int64_t kRows = 11, kFirst = 5;

// Some outside of this part's rows, some rare, one in every other place.
Owned Ids(int64_t tokens, int64_t limit) {
  Owned ids(DType::kI32, {tokens});
  for (int64_t n = 0; n < tokens; ++n) {
    ids.Set(n, n % 2 == 0 ? kFirst : (n * 7 + n * n * 3) % limit);
  }
  return ids;
}

// Table type, type of y and dy, hidden size.
class EmbeddingCudaTest : public testing::TestWithParam<std::tuple<DType, DType, int64_t>> {
 protected:
  DType table_type = std::get<0>(GetParam()), y_type = std::get<1>(GetParam());
  int64_t hidden = std::get<2>(GetParam());
};
INSTANTIATE_TEST_SUITE_P(All, EmbeddingCudaTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(1, 40, 133, 1032)));

TEST_P(EmbeddingCudaTest, Forward) {
  const int64_t tokens = 77;
  ExpectGpuIsCpuExactly(
      [](Stream& s, const Tensors& t) { EmbeddingForward(s, t[0], t[1], kFirst, t[2]); },
      {Ids(tokens, 24), Owned::Random(table_type, {kRows, hidden}, 1),
       Owned::Random(y_type, {tokens, hidden}, 2)});
}

// More tokens than a block looks at between two barriers, in both directions.
TEST_P(EmbeddingCudaTest, BackwardAddsInTokenOrder) {
  if (table_type != DType::kF32) return;  // gradients of the table are f32
  for (const int64_t tokens : {1, 130, 1100}) {
    if (tokens > 130 && hidden > 133) continue;
    for (const bool accumulate : {false, true}) {
      ExpectGpuIsCpuExactly(
          [&](Stream& s, const Tensors& t) {
            EmbeddingBackward(s, t[0], t[1], kFirst, t[2], accumulate);
          },
          {Ids(tokens, 24), Owned::Random(y_type, {tokens, hidden}, 1),
           Owned::Random(DType::kF32, {kRows, hidden}, 2)});
    }
  }
}

TEST_P(EmbeddingCudaTest, PositionsAreAddedToWhatIsThere) {
  const int64_t tokens = 77;
  ExpectGpuIsCpuExactly(
      [](Stream& s, const Tensors& t) { PositionEmbeddingForward(s, t[0], t[1], t[2]); },
      {Ids(tokens, kRows), Owned::Random(table_type, {kRows, hidden}, 1),
       Owned::Random(y_type, {tokens, hidden}, 2)});
}

}  // namespace
}  // namespace trireme
