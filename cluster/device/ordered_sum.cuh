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

// One pass over memory, a pack of 16 bytes a thread where `packed`. With two inputs, the most
// frequent case, the values stay in registers; else in a small array of the thread's.
template <typename T, bool packed>
__global__ void SumInOrderKernel(OrderedSum sum, T* out, int64_t count) {
  constexpr int kWidth = packed ? Pack<T>::kSize : 1;
  struct Values {
    T values[kWidth];
  };
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kWidth;
  if (first >= count) return;
  const auto load = [&](int input) {
    Values loaded;
    const T* p = static_cast<const T*>(sum.input[input]) + first;
    if constexpr (packed) {
      const Pack<T> pack = LoadPack(p);
      for (int i = 0; i < kWidth; ++i) loaded.values[i] = pack[i];
    } else {
      loaded.values[0] = *p;
    }
    return loaded;
  };
  const auto add = [](Values& to, const Values& other) {
    for (int i = 0; i < kWidth; ++i) {
      to.values[i] = AddRounded(to.values[i], other.values[i]);
    }
  };
  Values result;
  if (sum.inputs == 2) {
    result = load(0);
    add(result, load(1));
  } else {
    Values stack[SumOrder::kMaxDepth];
    int depth = 0;
    for (int input = 0; input < sum.inputs; ++input) {
      stack[depth++] = load(input);
      for (int a = 0; a < sum.additions[input]; ++a, --depth)
        add(stack[depth - 2], stack[depth - 1]);
    }
    result = stack[0];
  }
  if constexpr (packed) {
    Pack<T> pack;
    for (int i = 0; i < kWidth; ++i) pack[i] = result.values[i];
    StorePack(out + first, pack);
  } else {
    out[first] = result.values[0];
  }
}

}  // namespace trireme::gpu
