#include "tests/cuda_kernels/device_testing.h"
#include "worker/kernels/embedding.h"

namespace trireme {
namespace {

constexpr int64_t kTableRows = 11, kFirst = 5;

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
      {Ids(tokens, 24), Owned::Random(table_type, {kTableRows, hidden}, 1),
       Owned::Random(y_type, {tokens, hidden}, 2)});
}

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
           Owned::Random(DType::kF32, {kTableRows, hidden}, 2)});
    }
  }
}

// The table's gradient has the CPU's bits for id(n) of n = 0 .. tokens - 1.
template <typename Id>
void ExpectBackwardIsTheCpus(DType type, int64_t tokens, int64_t rows, int64_t hidden,
                             const Id& id) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, hidden " << hidden);
  Owned ids(DType::kI32, {tokens});
  for (int64_t n = 0; n < tokens; ++n) ids.Set(n, id(n));
  ExpectGpuIsCpuExactly(
      [&](Stream& s, const Tensors& t) { EmbeddingBackward(s, t[0], t[1], kFirst, t[2], true); },
      {ids, Owned::Random(type, {tokens, hidden}, 1),
       Owned::Random(DType::kF32, {rows, hidden}, 2)});
}

// Token counts around the pieces that are sorted at once, the runs that are merged at once, and the
// lengths from which a run is a long one.
class EmbeddingBackwardCudaTest : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(All, EmbeddingBackwardCudaTest,
                         testing::Values(DType::kF32, DType::kBF16));

TEST_P(EmbeddingBackwardCudaTest, AllTokensAreOne) {
  for (const int64_t tokens : {2, 255, 256, 257, 511, 512, 700}) {
    for (const int64_t hidden : {3, 72}) {
      ExpectBackwardIsTheCpus(GetParam(), tokens, 4, hidden, [](int64_t) { return kFirst + 2; });
    }
  }
}

TEST_P(EmbeddingBackwardCudaTest, AllTokensDiffer) {
  for (const int64_t tokens : {255, 256, 257, 2047, 2049, 2500}) {
    const auto backwards = [=](int64_t n) { return kFirst + tokens - 1 - n; };
    ExpectBackwardIsTheCpus(GetParam(), tokens, tokens, 8, backwards);
    // 1009 is prime, and divides none of these.
    const auto mixed = [=](int64_t n) { return kFirst + n * 1009 % tokens; };
    ExpectBackwardIsTheCpus(GetParam(), tokens, tokens, 3, mixed);
  }
}

// Runs of many lengths, three of them long, one of which ends with the tokens of this part.
TEST_P(EmbeddingBackwardCudaTest, SomeRunsAreLong) {
  for (const int64_t tokens : {1300, 2333}) {
    const auto id = [=](int64_t n) {
      return n % 4 == 0 ? kFirst + 3 : n % 4 == 1 ? kFirst + 9 : n % 4 == 2 ? 0 : n * n % 29;
    };
    for (const int64_t hidden : {5, 136}) {
      ExpectBackwardIsTheCpus(GetParam(), tokens, 10, hidden, id);
    }
  }
}

TEST_P(EmbeddingBackwardCudaTest, NoTokenIsOfThisPart) {
  ExpectBackwardIsTheCpus(GetParam(), 600, 10, 16,
                          [](int64_t n) { return n % 2 == 0 ? kFirst - 1 : kFirst + 10; });
}

TEST_P(EmbeddingCudaTest, PositionsAreAddedToWhatIsThere) {
  const int64_t tokens = 77;
  ExpectGpuIsCpuExactly(
      [](Stream& s, const Tensors& t) { PositionEmbeddingForward(s, t[0], t[1], t[2]); },
      {Ids(tokens, kTableRows), Owned::Random(table_type, {kTableRows, hidden}, 1),
       Owned::Random(y_type, {tokens, hidden}, 2)});
}

}  // namespace
}  // namespace trireme
