#include "tests/cuda_kernels/device_testing.h"
#include "worker/kernels/attention.h"

namespace trireme {
namespace {

struct RotaryCase {
  int64_t heads, head_dim, half, row, offset;  // heads begin at `offset` of a fused row
};

class RotaryCudaTest : public testing::TestWithParam<std::tuple<DType, RotaryCase>> {};
INSTANTIATE_TEST_SUITE_P(
    All, RotaryCudaTest,
    testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                     testing::Values(RotaryCase{2, 64, 32, 256, 0}, RotaryCase{1, 64, 32, 256, 128},
                                     RotaryCase{3, 32, 8, 104, 8}, RotaryCase{2, 10, 5, 41, 3},
                                     RotaryCase{2, 64, 32, 129, 1}, RotaryCase{1, 16, 3, 16, 0})));

TEST_P(RotaryCudaTest, TurnsTheHeadsInsideAFusedRowAndNothingElse) {
  const auto& [dtype, c] = GetParam();
  const int64_t batch = 2, length = 9, positions = 40;
  Owned places(DType::kI32, {batch, length});
  for (int64_t i = 0; i < batch * length; ++i) places.Set(i, (i * 11) % positions);
  for (const bool inverse : {false, true}) {
    const Kernel kernel = [&, dtype = dtype, c = c](Stream& stream, const Tensors& t) {
      const Heads heads{t[0].bytes_data() + c.offset * ByteSize(dtype),
                        dtype,
                        batch,
                        length,
                        c.heads,
                        c.head_dim,
                        c.row};
      RotaryInPlace(stream, heads, t[1], t[2], t[3], inverse);
    };
    ExpectGpuIsCpuExactly(kernel, {Owned::Random(dtype, {batch * length, c.row}, 1), places,
                                   Owned::Random(DType::kF32, {positions, c.half}, 2),
                                   Owned::Random(DType::kF32, {positions, c.half}, 3)});
  }
}

}  // namespace
}  // namespace trireme
