#include "cluster/device/ordered_sum.h"

#include <algorithm>
#include <vector>

#include "cluster/device/buffer.h"
#include "cluster/device/cuda_device.h"

namespace trireme {
namespace {

BFloat16 AddRounded(BFloat16 a, BFloat16 b) { return ToBFloat16(ToFloat(a) + ToFloat(b)); }
template <typename T>
T AddRounded(T a, T b) {
  return a + b;
}

template <typename T>
void SumTyped(const SumOrder& order, std::span<const void* const> inputs, void* out,
              int64_t count) {
  std::array<T, SumOrder::kMaxDepth> stack{};
  for (int64_t i = 0; i < count; ++i) {
    int depth = 0;
    for (int input = 0; input < order.inputs; ++input) {
      stack[depth++] = static_cast<const T*>(inputs[input])[i];
      for (int a = 0; a < order.additions[input]; ++a, --depth) {
        stack[depth - 2] = AddRounded(stack[depth - 2], stack[depth - 1]);
      }
    }
    static_cast<T*>(out)[i] = stack[0];
  }
}

}  // namespace

void LoadSumKernels(Stream& stream) {
  if (stream.device() == DeviceKind::kCpu) return;
  (void)stream.native();  // this thread's GPU is the stream's
  constexpr int64_t kBytes = 1024;
  const Buffer memory(kBytes, stream.device());
  const std::vector<const void*> inputs(8, memory.data());
  // Those of the trees that have kernels of their own, and any other sum.
  for (const std::vector<uint8_t>& additions : std::vector<std::vector<uint8_t>>{
           {0, 1}, {0, 1, 0, 2}, {0, 1, 0, 2, 0, 1, 0, 3}, {0, 1, 1}}) {
    const std::span<const void* const> some(inputs.data(), additions.size());
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64, DType::kI64}) {
      // Not a multiple of any vector: its end has a kernel of its own.
      const int64_t count = kBytes / ByteSize(dtype) - 1;
      SumInOrder(stream, dtype, SumOrder(additions), some, memory.data(), count);
    }
  }
  stream.Synchronize();
}

SumOrder::SumOrder(std::span<const uint8_t> additions_after)
    : inputs(static_cast<int>(additions_after.size())), additions{} {
  CHECK(inputs >= 1 && inputs <= kMaxInputs) << inputs << " inputs of one sum";
  std::copy(additions_after.begin(), additions_after.end(), additions.begin());
  int depth = 0;
  for (uint8_t after : additions_after) {
    CHECK_LE(++depth, kMaxDepth) << "a sum that needs too many values at one time";
    depth -= after;
    CHECK_GE(depth, 1) << "a sum that adds more than it has";
  }
  CHECK_EQ(depth, 1) << "a sum that leaves something out";
}

void SumInOrder(Stream& stream, DType dtype, const SumOrder& order,
                std::span<const void* const> inputs, void* out, int64_t count) {
  CHECK_EQ(static_cast<int>(inputs.size()), order.inputs);
  if (stream.OnGpu("SumInOrder")) return cuda::SumInOrder(stream, dtype, order, inputs, out, count);
  switch (dtype) {
    case DType::kF32:
      return SumTyped<float>(order, inputs, out, count);
    case DType::kBF16:
      return SumTyped<BFloat16>(order, inputs, out, count);
    case DType::kF64:
      return SumTyped<double>(order, inputs, out, count);
    case DType::kI64:
      return SumTyped<int64_t>(order, inputs, out, count);
    default:
      LOG(FATAL) << "sums are of float32, bfloat16, float64 or int64, not " << DTypeName(dtype);
  }
}

}  // namespace trireme
