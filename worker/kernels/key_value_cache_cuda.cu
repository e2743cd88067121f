#include "worker/kernels/attention.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/key_value_cache.cuh"

namespace trireme::cuda {
namespace {

template <int kWidth, typename T>
void Append(Stream& stream, const Heads& x, const Tensor& lengths, const Heads& cache) {
  const int64_t tokens = x.batch * x.length, width = x.heads * x.head_dim;
  const gpu::LaunchShape shape{gpu::BlocksFor(tokens * width, gpu::kCacheThreads * kWidth),
                               gpu::kCacheThreads};
  gpu::Launch(stream, shape, gpu::AppendToCacheKernel<kWidth, T>, static_cast<const T*>(x.data),
              x.row_stride, lengths.as<int32_t>(), tokens, x.length, width,
              static_cast<T*>(cache.data), cache.row_stride, cache.length);
}

}  // namespace

void AppendToCache(Stream& stream, const Heads& x, const Tensor& lengths, const Heads& cache) {
  WithFloatType(x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    constexpr int kPack = gpu::Pack<T>::kSize;
    const bool packed = x.heads * x.head_dim % kPack == 0 && x.row_stride % kPack == 0 &&
                        cache.row_stride % kPack == 0 && gpu::IsPackAligned(x.data) &&
                        gpu::IsPackAligned(cache.data);
    if (packed) {
      Append<kPack, T>(stream, x, lengths, cache);
    } else {
      Append<1, T>(stream, x, lengths, cache);
    }
  });
}

}  // namespace trireme::cuda
