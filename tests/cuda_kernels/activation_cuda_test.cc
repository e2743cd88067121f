#include "tests/cuda_kernels/device_testing.h"
#include "worker/kernels/activation.h"

namespace trireme {
namespace {

class ActivationCudaTest : public testing::TestWithParam<std::tuple<DType, int64_t>> {
 protected:
  DType dtype = std::get<0>(GetParam());
  int64_t n = std::get<1>(GetParam());
  // dy, gate, up, and two results.
  std::vector<Owned> tensors = {Owned::Random(dtype, {n}, 1), Owned::Random(dtype, {n}, 2, 9.0),
                                Owned::Random(dtype, {n}, 3, 9.0), Owned::Random(dtype, {n}, 4),
                                Owned::Random(dtype, {n}, 5)};
  // The kernel's bits must not change when result `i` is written to tensor `on`.
  void ExpectSameBits(const Kernel& kernel, const std::vector<std::pair<size_t, size_t>>& aliases) {
    const auto plain = RunOnGpu(kernel, tensors);
    const auto aliased = RunOnGpu(
        [&](Stream& stream, Tensors t) {
          for (const auto& [i, on] : aliases) t[i] = t[on];
          kernel(stream, t);
        },
        tensors);
    for (const auto& [i, on] : aliases) EXPECT_TRUE(aliased[on] == plain[i]) << i << " on " << on;
  }
};
INSTANTIATE_TEST_SUITE_P(All, ActivationCudaTest,
                         testing::Combine(testing::Values(DType::kF32, DType::kBF16),
                                          testing::Values(1, 15, 64, 5003)));

TEST_P(ActivationCudaTest, SwiGlu) {
  ExpectGpuIsCpu([](Stream& s, const Tensors& t) { SwiGluForward(s, t[1], t[2], t[3]); }, tensors,
                 1e-6, 2e-6);
  const Kernel backward = [](Stream& s, const Tensors& t) {
    SwiGluBackward(s, t[0], t[1], t[2], t[3], t[4]);
  };
  ExpectGpuIsCpu(backward, tensors, 1e-6, 2e-6);
  ExpectSameBits(backward, {{3, 1}, {4, 2}});
  ExpectSameBits(backward, {{3, 1}, {4, 0}});
}

TEST_P(ActivationCudaTest, Gelu) {
  ExpectGpuIsCpu([](Stream& s, const Tensors& t) { GeluForward(s, t[1], t[3]); }, tensors, 1e-6,
                 2e-6);
  const Kernel backward = [](Stream& s, const Tensors& t) { GeluBackward(s, t[0], t[1], t[3]); };
  ExpectGpuIsCpu(backward, tensors, 1e-6, 2e-6);
  ExpectSameBits(backward, {{3, 0}});
  ExpectSameBits(backward, {{3, 1}});
}

TEST_P(ActivationCudaTest, Add) {
  const Kernel add = [](Stream& s, const Tensors& t) { Add(s, t[1], t[2], t[3]); };
  ExpectGpuIsCpuExactly(add, tensors);
  ExpectSameBits(add, {{3, 1}});
  ExpectSameBits(add, {{3, 2}});
}

TEST_P(ActivationCudaTest, AddOfMixedTypes) {
  for (const int mix : {1, 2, 4, 6}) {
    for (int i = 0; i < 3; ++i) {
      const bool other = (mix >> i & 1) != 0;
      const DType mixed = dtype == DType::kF32 ? DType::kBF16 : DType::kF32;
      tensors[1 + i] = Owned::Random(other ? mixed : dtype, {n}, 10 + i);
    }
    ExpectGpuIsCpuExactly([](Stream& s, const Tensors& t) { Add(s, t[1], t[2], t[3]); }, tensors);
  }
}

// Views that begin between packs take the way without packs.
TEST_P(ActivationCudaTest, UnalignedViews) {
  if (n < 2) return;  // no room for a view
  const Kernel kernel = [](Stream& s, const Tensors& t) {
    SwiGluForward(s, t[1].Rows(1, t[1].dim(0)), t[2].Rows(0, t[2].dim(0) - 1),
                  t[3].Rows(1, t[3].dim(0)));
  };
  ExpectGpuIsCpu(kernel, tensors, 1e-6, 2e-6);
}

TEST(ActivationCudaTest, LargeInputsDoNotOverflow) {
  Owned x(DType::kF32, {4}), one(DType::kF32, {4}), y(DType::kF32, {4}), z(DType::kF32, {4});
  const double values[] = {-1e4, -95, 95, 1e4};
  for (int i = 0; i < 4; ++i) x.Set(i, values[i]), one.Set(i, 1);
  ExpectGpuIsCpu([](Stream& s, const Tensors& t) { GeluForward(s, t[0], t[2]); }, {x, one, y, z},
                 1e-30, 0);
  ExpectGpuIsCpu([](Stream& s, const Tensors& t) { GeluBackward(s, t[1], t[0], t[2]); },
                 {x, one, y, z}, 1e-30, 0);
  ExpectGpuIsCpu(
      [](Stream& s, const Tensors& t) { SwiGluBackward(s, t[1], t[0], t[1], t[2], t[3]); },
      {x, one, y, z}, 1e-30, 0);
}

TEST(BiasBackwardCudaTest, IsTheCpus) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& [rows, width] :
         {std::pair{1, 1}, {200, 37}, {130, 64}, {1100, 8}, {33, 1040}}) {
      for (const bool accumulate : {false, true}) {
        ExpectGpuIsCpu(
            [&](Stream& s, const Tensors& t) { BiasBackward(s, t[0], t[1], accumulate); },
            {Owned::Random(dtype, {rows, width}, 1), Owned::Random(DType::kF32, {width}, 2)}, 2e-5,
            1e-6);
      }
    }
  }
}

}  // namespace
}  // namespace trireme
