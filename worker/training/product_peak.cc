#include <algorithm>
#include <vector>

#include "cluster/base/clock.h"
#include "cluster/base/rng.h"
#include "cluster/device/buffer.h"
#include "worker/kernels/matmul.h"
#include "worker/training/training_worker.h"

namespace trireme {

namespace {

// Random numbers from -1 to 1, the same ones again and again: products of constants draw less
// power, and are faster on a GPU than any that a model has.
void FillWithNumbers(Stream& stream, DType dtype, const Buffer& buffer) {
  constexpr int64_t kNumbers = 1 << 18;
  std::vector<float> numbers(kNumbers);
  std::vector<BFloat16> halves(kNumbers);
  const CounterRng rng(1, RngUse::kInit, 0);
  for (int64_t i = 0; i < kNumbers; ++i) {
    numbers[i] = 2 * rng.Uniform(i) - 1;
    halves[i] = ToBFloat16(numbers[i]);
  }
  const void* from =
      dtype == DType::kF32 ? static_cast<const void*>(numbers.data()) : halves.data();
  const int64_t bytes = kNumbers * ByteSize(dtype);
  for (int64_t at = 0; at < buffer.bytes(); at += bytes) {
    stream.Copy(buffer.data() + at, from, std::min(bytes, buffer.bytes() - at));
  }
  stream.Synchronize();
}

// The shortest of a few products of size x size x size matrices, from its call to its end.
Micros ShortestProduct(Stream& stream, DType dtype, int64_t size) {
  constexpr int kProducts = 6;
  const DeviceKind device = stream.device();
  const Buffer a(size * size * ByteSize(dtype), device), b(a.bytes(), device);
  const Buffer c(size * size * ByteSize(DType::kF32), device);
  FillWithNumbers(stream, dtype, a);
  FillWithNumbers(stream, dtype, b);
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
