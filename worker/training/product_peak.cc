#include <algorithm>

#include "cluster/base/clock.h"
#include "cluster/device/buffer.h"
#include "worker/kernels/matmul.h"
#include "worker/training/training_worker.h"

namespace trireme {

double MeasureProductPeak(Stream& stream, bool bf16) {
  constexpr int64_t kSize = 1024;
  constexpr int kProducts = 6;
  const DType dtype = bf16 ? DType::kBF16 : DType::kF32;
  const DeviceKind device = stream.device();
  const Buffer a(kSize * kSize * ByteSize(dtype), device), b(a.bytes(), device);
  const Buffer c(kSize * kSize * ByteSize(DType::kF32), device);
  const Matrix product = Matrix::Of(c.AsTensor(DType::kF32, {kSize, kSize}));
  Micros best = 0;
  for (int i = 0; i < kProducts; ++i) {
    const Micros start = RealClock().NowMicros();
    MatMul(stream, Matrix::Of(a.AsTensor(dtype, {kSize, kSize})), Transpose::kNo,
           Matrix::Of(b.AsTensor(dtype, {kSize, kSize})), Transpose::kYes, product);
    stream.Synchronize();
    const Micros took = std::max<Micros>(1, RealClock().NowMicros() - start);
    best = i == 0 ? took : std::min(best, took);
  }
  return 2.0 * kSize * kSize * kSize / (static_cast<double>(best) * 1e-6);
}

}  // namespace trireme
