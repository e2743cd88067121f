#include <bit>
#include <type_traits>

#include "cluster/device/cuda_device.h"
#include "cluster/device/ordered_sum.cuh"

namespace trireme::cuda {
namespace {

constexpr int kThreads = 256;

// Whether the inputs are added as the leaves of a full binary tree.
bool IsFullTree(const gpu::OrderedSum& sum) {
  for (int i = 0; i < sum.inputs; ++i) {
    if (sum.additions[i] != std::countr_one(static_cast<unsigned>(i))) return false;
  }
  return std::has_single_bit(static_cast<unsigned>(sum.inputs));
}

// Calls body(std::integral_constant) with kTree of SumInOrderKernel.
template <typename Body>
void WithTree(const gpu::OrderedSum& sum, const Body& body) {
  const int tree = IsFullTree(sum) ? sum.inputs : 0;
  if (tree == 2) return body(std::integral_constant<int, 2>());
  if (tree == 4) return body(std::integral_constant<int, 4>());
  if (tree == 8) return body(std::integral_constant<int, 8>());
  body(std::integral_constant<int, 0>());
}

template <typename T>
void SumTyped(Stream& stream, gpu::OrderedSum sum, T* out, int64_t count) {
  bool aligned = gpu::IsPackAligned(out);
  for (int i = 0; i < sum.inputs; ++i) aligned = aligned && gpu::IsPackAligned(sum.input[i]);
  constexpr int64_t kPack = gpu::Pack<T>::kSize;
  const int64_t in_packs = aligned ? count / kPack * kPack : 0;
  WithTree(sum, [&](auto tree) {
    gpu::Launch(stream, {gpu::BlocksFor(in_packs / kPack, kThreads), kThreads},
                gpu::SumInOrderKernel<T, true, tree>, sum, out, in_packs);
    for (int i = 0; i < sum.inputs; ++i) {
      sum.input[i] = static_cast<const T*>(sum.input[i]) + in_packs;
    }
    gpu::Launch(stream, {gpu::BlocksFor(count - in_packs, kThreads), kThreads},
                gpu::SumInOrderKernel<T, false, tree>, sum, out + in_packs, count - in_packs);
  });
}

}  // namespace

void SumInOrder(Stream& stream, DType dtype, const SumOrder& order,
                std::span<const void* const> inputs, void* out, int64_t count) {
  gpu::OrderedSum sum;
  sum.inputs = order.inputs;
  for (int i = 0; i < order.inputs; ++i) {
    sum.input[i] = inputs[i];
    sum.additions[i] = order.additions[i];
  }
  switch (dtype) {
    case DType::kF32:
      return SumTyped(stream, sum, static_cast<float*>(out), count);
    case DType::kBF16:
      return SumTyped(stream, sum, static_cast<BFloat16*>(out), count);
    case DType::kF64:
      return SumTyped(stream, sum, static_cast<double*>(out), count);
    case DType::kI64:
      return SumTyped(stream, sum, static_cast<int64_t*>(out), count);
    default:
      LOG(FATAL) << "sums are of float32, bfloat16, float64 or int64, not " << DTypeName(dtype);
  }
}

}  // namespace trireme::cuda
