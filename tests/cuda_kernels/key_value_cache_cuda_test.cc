#include "tests/cuda_kernels/device_testing.h"
#include "worker/kernels/attention.h"

namespace trireme {
namespace {

struct CacheCase {
  int64_t length, heads, head_dim, row, offset;  // heads begin at `offset` of a fused row
};

class KeyValueCacheCudaTest : public testing::TestWithParam<std::tuple<DType, CacheCase>> {};
INSTANTIATE_TEST_SUITE_P(
    All, KeyValueCacheCudaTest,
    testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                     testing::Values(CacheCase{1, 2, 64, 256, 128}, CacheCase{5, 2, 64, 256, 0},
                                     CacheCase{3, 1, 13, 40, 13}, CacheCase{7, 3, 8, 25, 1})));

TEST_P(KeyValueCacheCudaTest, WritesTheNewTokensAndNothingElse) {
  const auto& [dtype, c] = GetParam();
  const int64_t batch = 3, capacity = 12;
  Owned lengths(DType::kI32, {batch});
  for (int64_t b = 0; b < batch; ++b) lengths.Set(b, c.length + 2 * b);
  const Kernel kernel = [&, dtype = dtype, c = c](Stream& stream, const Tensors& t) {
    const Heads x{t[0].bytes_data() + c.offset * ByteSize(dtype),
                  dtype,
                  batch,
                  c.length,
                  c.heads,
                  c.head_dim,
                  c.row};
    const Heads cache{t[2].data(),         dtype, batch, capacity, c.heads, c.head_dim,
                      c.heads * c.head_dim};
    AppendToCache(stream, x, t[1], cache);
  };
  ExpectGpuIsCpuExactly(kernel,
                        {Owned::Random(dtype, {batch * c.length, c.row}, 1), lengths,
                         Owned::Random(dtype, {batch * capacity, c.heads * c.head_dim}, 2)});
}

TEST(KeyValueCacheCudaTest, APlaceOutsideTheCacheEndsTheProcess) {
  const Owned x = Owned::Random(DType::kF32, {2, 8}, 1),
              cache = Owned::Random(DType::kF32, {4, 8}, 2);
  Owned lengths(DType::kI32, {1});
  lengths.Set(0, 5);
  const Kernel kernel = [&](Stream& stream, const Tensors& t) {
    AppendToCache(stream, {t[0].data(), DType::kF32, 1, 2, 1, 8, 8}, t[1],
                  {t[2].data(), DType::kF32, 1, 4, 1, 8, 8});
  };
  EXPECT_DEATH(RunOnCpu(kernel, {x, lengths, cache}), "2 tokens from position 3, room for 4");
}

}  // namespace
}  // namespace trireme
