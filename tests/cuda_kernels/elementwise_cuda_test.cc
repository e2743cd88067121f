#include "cluster/device/elementwise.h"
#include "tests/cuda_kernels/device_testing.h"

namespace trireme {
namespace {

TEST(ElementwiseCudaTest, AddsAndCastsAreTheCpus) {
  for (const int64_t n : {1, 7, 8, 2048, 4099}) {
    for (const int64_t offset : {0, 1}) {  // from where packs begin, and from beside it
      if (offset >= n) continue;
      const std::vector<Owned> tensors = {Owned::Random(DType::kF32, {n}, 1),
                                          Owned::Random(DType::kF32, {n}, 2),
                                          Owned::Random(DType::kBF16, {n}, 3)};
      const auto run = [&](const Kernel& kernel) { ExpectGpuIsCpuExactly(kernel, tensors); };
      run([&](Stream& s, const Tensors& t) {
        AddInPlace(s, t[0].as<float>() + offset, t[1].as<float>() + offset, n - offset);
      });
      run([&](Stream& s, const Tensors& t) {
        CastToBFloat16(s, t[2].as<BFloat16>() + offset, t[0].as<float>(), n - offset);
      });
      run([&](Stream& s, const Tensors& t) {
        CastToFloat(s, t[0].as<float>(), t[2].as<BFloat16>() + offset, n - offset);
      });
    }
  }
}

}  // namespace
}  // namespace trireme
