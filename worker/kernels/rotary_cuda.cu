#include "worker/kernels/attention.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/rotary.cuh"

namespace trireme::cuda {
namespace {

constexpr int kRotaryPack = 8;

template <int kWidth, typename T>
void Rotate(Stream& stream, const Heads& x, const Tensor& positions, const Tensor& cosines,
            const Tensor& sines, bool inverse) {
  const int64_t tokens = x.batch * x.length, half = cosines.dim(1);
  const gpu::LaunchShape shape{
      gpu::BlocksFor(tokens * x.heads * half, gpu::kRotaryThreads * kWidth), gpu::kRotaryThreads};
  // Room for the index of a block's last thread.
  CHECK_LT(tokens * x.heads * half, int64_t{1} << 31) << "pairs of elements in one call";
  gpu::Launch(stream, shape, gpu::RotaryKernel<kWidth, T>, static_cast<T*>(x.data),
              positions.as<int32_t>(), cosines.as<float>(), sines.as<float>(),
              inverse ? -1.0f : 1.0f, static_cast<uint32_t>(tokens), static_cast<uint32_t>(x.heads),
              x.head_dim, x.row_stride, static_cast<uint32_t>(half), cosines.dim(0));
}

}  // namespace

void RotaryInPlace(Stream& stream, const Heads& x, const Tensor& positions, const Tensor& cosines,
                   const Tensor& sines, bool inverse) {
  const int64_t half = cosines.dim(1);
  CHECK_LE(2 * half, x.head_dim);
  CHECK_EQ(positions.elements(), x.batch * x.length);
  CHECK(sines.shape() == cosines.shape());
  const bool packed = half % kRotaryPack == 0 && x.head_dim % kRotaryPack == 0 &&
                      x.row_stride % kRotaryPack == 0 && gpu::IsPackAligned(x.data) &&
                      gpu::IsPackAligned(cosines.data()) && gpu::IsPackAligned(sines.data());
  WithFloatType(x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    if (packed) {
      Rotate<kRotaryPack, T>(stream, x, positions, cosines, sines, inverse);
    } else {
      Rotate<1, T>(stream, x, positions, cosines, sines, inverse);
    }
  });
}

}  // namespace trireme::cuda
