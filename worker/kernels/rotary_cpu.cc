#include <algorithm>

#include "worker/kernels/attention.h"
#include "worker/kernels/attention_tile.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/vector.h"

namespace trireme {

void RotaryInPlace(Stream& stream, const Heads& x, const Tensor& positions, const Tensor& cosines,
                   const Tensor& sines, bool inverse) {
  if (stream.OnGpu("RotaryInPlace")) {
    return cuda::RotaryInPlace(stream, x, positions, cosines, sines, inverse);
  }
  const int64_t half = cosines.dim(1), rows = cosines.dim(0);
  CHECK_LE(2 * half, x.head_dim);
  CHECK_EQ(positions.elements(), x.batch * x.length);
  CHECK(sines.shape() == cosines.shape());
  const int32_t* position = positions.as<int32_t>();
  const float *cosine_0 = cosines.as<float>(), *sine_0 = sines.as<float>();
  const float sign = inverse ? -1.0f : 1.0f;
  constexpr int64_t kTokens = 32;
  WithFloatType(x.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const auto token = [&](int64_t n) {
      CHECK(position[n] >= 0 && position[n] < rows) << "position " << position[n] << " of " << rows;
      const float* cosine = cosine_0 + position[n] * half;
      const float* sine = sine_0 + position[n] * half;
      for (int64_t h = 0; h < x.heads; ++h) {
        T* low = HeadRow<T>(x, 0, n, h);
        T* high = low + half;
        ForLanes(half, [&](int64_t i, auto count) {
          const Vec c = Load(cosine + i, count), s = Load(sine + i, count) * sign;
          const Vec a = Load(low + i, count), b = Load(high + i, count);
          Store(low + i, Fma(a, c, -(b * s)), count);
          Store(high + i, Fma(b, c, a * s), count);
        });
      }
    };
    const int64_t tokens = x.batch * x.length;
    stream.ParallelFor(CeilDivide(tokens, kTokens), [&](int64_t block) {
      for (int64_t n = block * kTokens; n < std::min(tokens, (block + 1) * kTokens); ++n) token(n);
    });
  });
}

}  // namespace trireme
