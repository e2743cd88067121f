#include "cluster/device/ordered_sum.h"
#include "tests/cuda_kernels/device_testing.h"

namespace trireme {
namespace {

TEST(OrderedSumCudaTest, SumsHaveTheCpusBitsInEveryOrder) {
  const std::vector<std::vector<uint8_t>> orders = {
      {0}, {0, 1}, {0, 1, 0, 2}, {0, 1, 1, 1, 1}, {0, 0, 0, 0, 4}, {0, 1, 0, 2, 0, 1, 0, 3}};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const auto& order : orders) {
      for (const int64_t n : {1, 7, 8, 513, 4099}) {
        for (const int64_t offset : {0, 1}) {  // from where packs begin, and from beside it
          std::vector<Owned> tensors;
          for (size_t i = 0; i < order.size(); ++i) {
            tensors.push_back(Owned::Random(dtype, {n + offset}, static_cast<int>(i) + 1));
          }
          const Kernel kernel = [&](Stream& stream, const Tensors& t) {
            std::vector<const void*> inputs;
            const int64_t skipped = offset * ByteSize(dtype);
            for (const Tensor& tensor : t) inputs.push_back(tensor.bytes_data() + skipped);
            // In place of the last input.
            SumInOrder(stream, dtype, SumOrder(order), inputs, t.back().bytes_data() + skipped, n);
          };
          ExpectGpuIsCpuExactly(kernel, tensors);
        }
      }
    }
  }
}

}  // namespace
}  // namespace trireme
