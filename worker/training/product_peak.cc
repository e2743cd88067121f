#include <algorithm>

#include "cluster/base/clock.h"
#include "cluster/device/buffer.h"
#include "worker/kernels/matmul.h"
#include "worker/training/training_worker.h"

namespace trireme {

namespace {

// The shortest of a few products of size x size x size matrices, from its call to its end.
Micros ShortestProduct(Stream& stream, DType dtype, int64_t size) {
  constexpr int kProducts = 6;
  const DeviceKind device = stream.device();
  const Buffer a(size * size * ByteSize(dtype), device), b(a.bytes(), device);
  const Buffer c(size * size * ByteSize(DType::kF32), device);
  stream.Fill(a.data(), 0, a.bytes());
  stream.Fill(b.data(), 0, b.bytes());
  const Matrix product = Matrix::Of(c.AsTensor(DType::kF32, {size, size}));
  Micros best = 0;
  for (int i = 0; i < kProducts; ++i) {
    const Micros start = RealClock().NowMicros();
    MatMul(stream, Matrix::Of(a.AsTensor(dtype, {size, size})), Transpose::kNo,
           Matrix::Of(b.AsTensor(dtype, {size, size})), Transpose::kYes, product);
    stream.Synchronize();
    const Micros took = std::max<Micros>(1, RealClock().NowMicros() - start);
    best = i == 0 ? took : std::min(best, took);
  }
  return best;
}

}  // namespace

double MeasureProductPeak(Stream& stream, bool bf16) {
  // Large enough that the call and the wait, of some microseconds, do not count: 1,024 on a CPU,
  // 8,192 on a large GPU.
  constexpr Micros kEnough = 1000;
  const DType dtype = bf16 ? DType::kBF16 : DType::kF32;
  for (int64_t size = 1024;; size *= 2) {
    const Micros best = ShortestProduct(stream, dtype, size);
    if (best < kEnough && size < 8192) continue;
    const auto n = static_cast<double>(size);
    return 2 * n * n * n / (static_cast<double>(best) * 1e-6);
  }
}

}  // namespace trireme
