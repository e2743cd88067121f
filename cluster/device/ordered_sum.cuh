// Device code of ordered_sum.h.
#pragma once

#include "cluster/device/cuda_language.cuh"
#include "cluster/device/ordered_sum.h"

namespace trireme::gpu {

// Passed by value: constant memory of the launch.
struct OrderedSum {
  int inputs;
  const void* input[SumOrder::kMaxInputs];
  uint8_t additions[SumOrder::kMaxInputs];
};

template <typename T>
__device__ __forceinline__ T AddRounded(T a, T b) {
  if constexpr (sizeof(T) == sizeof(BFloat16)) {
    return RoundTo<T>(__fadd_rn(ToFloat(a), ToFloat(b)));
  } else {
    return a + b;
  }
}

// kWidth elements at one place of the inputs: one, or a pack of 16 bytes.
template <typename T, int kWidth>
struct SumValues {
  T values[kWidth];

  __device__ __forceinline__ static SumValues Load(const OrderedSum& sum, int input,
                                                   int64_t first) {
    SumValues loaded;
    const T* p = static_cast<const T*>(sum.input[input]) + first;
    if constexpr (kWidth > 1) {
      const Pack<T> pack = LoadPack(p);
      for (int i = 0; i < kWidth; ++i) loaded.values[i] = pack[i];
    } else {
      loaded.values[0] = *p;
    }
    return loaded;
  }
  __device__ __forceinline__ void Store(T* p) const {
    if constexpr (kWidth > 1) {
      Pack<T> pack;
      for (int i = 0; i < kWidth; ++i) pack[i] = values[i];
      StorePack(p, pack);
    } else {
      *p = values[0];
    }
  }
  __device__ __forceinline__ void Add(const SumValues& other) {
    for (int i = 0; i < kWidth; ++i) values[i] = AddRounded(values[i], other.values[i]);
  }
};

// Inputs [kFirst, kFirst + kCount), kCount a power of two, each half summed before the two are.
template <typename T, int kWidth, int kFirst, int kCount>
__device__ __forceinline__ SumValues<T, kWidth> SumOfTree(const OrderedSum& sum, int64_t first) {
  if constexpr (kCount == 1) {
    return SumValues<T, kWidth>::Load(sum, kFirst, first);
  } else {
    SumValues<T, kWidth> result = SumOfTree<T, kWidth, kFirst, kCount / 2>(sum, first);
    result.Add(SumOfTree<T, kWidth, kFirst + kCount / 2, kCount / 2>(sum, first));
    return result;
  }
}

// One pass over memory, a pack of 16 bytes a thread where `packed`. kTree: 2, 4 or 8 inputs that
// are added as SumOfTree adds them, all in registers; 0: any order, through an array of the
// thread's.
template <typename T, bool packed, int kTree>
__global__ void SumInOrderKernel(OrderedSum sum, T* out, int64_t count) {
  constexpr int kWidth = packed ? Pack<T>::kSize : 1;
  using Values = SumValues<T, kWidth>;
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
  if (first >= count) return;
  if constexpr (kTree > 0) {
    SumOfTree<T, kWidth, 0, kTree>(sum, first).Store(out + first);
  } else {
    Values stack[SumOrder::kMaxDepth];
    int depth = 0;
    for (int input = 0; input < sum.inputs; ++input) {
      stack[depth++] = Values::Load(sum, input, first);
      for (int a = 0; a < sum.additions[input]; ++a, --depth) {
        stack[depth - 2].Add(stack[depth - 1]);
      }
    }
    stack[0].Store(out + first);
  }
}

}  // namespace trireme::gpu
