#include <vector>

#include "worker/kernels/cross_entropy.cuh"
#include "worker/kernels/cross_entropy.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/stream_scratch.cuh"
#include "worker/kernels/sum_f64.cuh"

namespace trireme::cuda {
namespace {

constexpr int kRowThreads = 128;  // a block of kernels with a thread a row

}  // namespace

void SoftmaxStatistics(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                       int64_t first_row, const Tensor& row_max, const Tensor& row_sum,
                       const Tensor& target) {
  const int64_t rows = logits.dim(0), stride = logits.dim(1);
  CHECK_EQ(labels.elements(), rows);
  CHECK_EQ(row_max.elements(), rows);
  CHECK_EQ(row_sum.elements(), rows);
  CHECK_EQ(target.elements(), rows);
  CHECK(width > 0 && width <= stride) << width << " of " << stride;
  WithFloatType(logits.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    gpu::Launch(stream, {gpu::BlocksFor(rows, 1), gpu::kClassifierThreads},
                gpu::SoftmaxStatisticsKernel<gpu::kClassifierThreads, T>, logits.as<T>(),
                labels.as<int32_t>(), width, stride, first_row, kNoLabel, row_max.as<float>(),
                row_sum.as<float>(), target.as<float>());
  });
}

void CombineSoftmaxStatistics(Stream& stream, const Tensor& gathered, const Tensor& row_max,
                              const Tensor& row_sum, const Tensor& target) {
  const int64_t ranks = gathered.dim(0), rows = gathered.dim(2);
  CHECK_EQ(gathered.dim(1), 3);
  for (const Tensor* out : {&row_max, &row_sum, &target}) CHECK_EQ(out->elements(), rows);
  gpu::Launch(stream, {gpu::BlocksFor(rows, kRowThreads), kRowThreads},
              gpu::CombineSoftmaxStatisticsKernel<kRowThreads>, gathered.as<float>(), ranks, rows,
              row_max.as<float>(), row_sum.as<float>(), target.as<float>());
}

void TokenLosses(Stream& stream, const Tensor& labels, const Tensor& row_max, const Tensor& row_sum,
                 const Tensor& target, const Tensor& losses) {
  const int64_t rows = labels.elements();
  CHECK_EQ(losses.elements(), rows);
  gpu::Launch(stream, {gpu::BlocksFor(rows, kRowThreads), kRowThreads},
              gpu::TokenLossesKernel<kRowThreads>, labels.as<int32_t>(), rows, kNoLabel,
              row_max.as<float>(), row_sum.as<float>(), target.as<float>(), losses.as<float>());
}

void SoftmaxGradient(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                     int64_t first_row, const Tensor& row_max, const Tensor& row_sum, float scale,
                     const Tensor& dlogits) {
  const int64_t rows = logits.dim(0), stride = logits.dim(1);
  CheckSameShape(dlogits, logits, "dlogits");
  CHECK(width > 0 && width <= stride) << width << " of " << stride;
  CHECK_EQ(labels.elements(), rows);
  const auto launch = [&](auto* of_logits, auto* of_gradient) {
    using X = std::remove_pointer_t<decltype(of_logits)>;
    using T = std::remove_pointer_t<decltype(of_gradient)>;
    gpu::Launch(stream, {gpu::BlocksFor(rows, 1), gpu::kClassifierThreads},
                gpu::SoftmaxGradientKernel<gpu::kClassifierThreads, X, T>, logits.as<X>(),
                labels.as<int32_t>(), width, stride, first_row, kNoLabel, row_max.as<float>(),
                row_sum.as<float>(), scale, dlogits.as<T>());
  };
  WithFloatType(logits.dtype(), [&](auto* type) {
    if (dlogits.dtype() == logits.dtype()) return launch(type, type);
    CHECK(logits.dtype() == DType::kF32 && dlogits.dtype() == DType::kBF16);
    launch(static_cast<float*>(nullptr), static_cast<BFloat16*>(nullptr));
  });
}

void CrossEntropyInPlace(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                         float scale, const Tensor& losses) {
  const int64_t rows = logits.dim(0), stride = logits.dim(1);
  CHECK(width > 0 && width <= stride) << width << " of " << stride;
  CHECK_EQ(labels.elements(), rows);
  CHECK_EQ(losses.elements(), rows);
  CHECK(gpu::IsPackAligned(logits.data()) && stride * ByteSize(logits.dtype()) % 16 == 0)
      << "rows of logits must be at multiples of 16 bytes";
  CHECK_LT(stride, int64_t{1} << 30);
  WithFloatType(logits.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    gpu::Launch(stream, {gpu::BlocksFor(rows, 1), gpu::kCrossEntropyThreads},
                gpu::CrossEntropyKernel<gpu::kCrossEntropyThreads, T>, logits.as<T>(),
                static_cast<int>(width), stride, labels.as<int32_t>(), kNoLabel, scale,
                losses.as<float>());
  });
}

void SumF64(Stream& stream, const Tensor& x, double* sum) {
  const unsigned blocks = gpu::BlocksFor(x.elements(), gpu::kSumElements);
  const gpu::StreamScratch<double> sums(stream, blocks);
  if (blocks > 0) {
    gpu::Launch(stream, {blocks, gpu::kSumThreads}, gpu::SumF64Kernel<gpu::kSumThreads>,
                x.as<float>(), x.elements(), sums.data());
  }
  gpu::Launch(stream, {1, 1}, gpu::AddSumsKernel<1>, sums.data(), int64_t{blocks}, sum);
}

double SumF64(Stream& stream, const Tensor& x) {
  const gpu::StreamScratch<double> sum(stream, 1);
  cuda::SumF64(stream, x, sum.data());
  double on_host = 0;
  stream.Copy(&on_host, sum.data(), sum.bytes());
  stream.Synchronize();
  return on_host;
}

}  // namespace trireme::cuda
