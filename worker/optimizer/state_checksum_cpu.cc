#include <algorithm>
#include <numeric>
#include <vector>

#include "worker/kernels/dispatch.h"
#include "worker/optimizer/cuda_optimizer.h"
#include "worker/optimizer/state_checksum.h"

namespace trireme {
namespace {

constexpr int64_t kBlock = 1 << 15;  // elements a parallel block

template <typename Bits>
uint64_t SumOf(const Tensor& x, int64_t begin, int64_t end, int64_t first_element) {
  const Bits* bits = static_cast<const Bits*>(x.data());
  uint64_t sum = 0;
  for (int64_t i = begin; i < end; ++i) sum += MixedElement(bits[i], first_element + i);
  return sum;
}

uint64_t SumOf(const ChecksumSlice& slice, int64_t begin, int64_t end) {
  const Tensor& x = slice.elements;
  switch (ByteSize(x.dtype())) {
    case 2:
      return SumOf<uint16_t>(x, begin, end, slice.first_element);
    case 4:
      return SumOf<uint32_t>(x, begin, end, slice.first_element);
    default:
      CHECK_EQ(ByteSize(x.dtype()), 8) << DTypeName(x.dtype());
      return SumOf<uint64_t>(x, begin, end, slice.first_element);
  }
}

}  // namespace

uint64_t StateChecksum(Stream& stream, std::span<const ChecksumSlice> slices) {
  if (stream.OnGpu("StateChecksum")) {
    return cuda::StateChecksum(stream, slices);
  }
  uint64_t total = 0;
  for (const ChecksumSlice& slice : slices) {
    const int64_t n = slice.elements.elements();
    std::vector<uint64_t> sums(CeilDivide(n, kBlock));
    stream.ParallelFor(static_cast<int64_t>(sums.size()), [&](int64_t block) {
      const int64_t begin = block * kBlock;
      sums[block] = SumOf(slice, begin, std::min(n, begin + kBlock));
    });
    total = std::accumulate(sums.begin(), sums.end(), total);
  }
  return total;
}

}  // namespace trireme
