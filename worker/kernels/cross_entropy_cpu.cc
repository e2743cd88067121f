#include <algorithm>
#include <cmath>

#include "worker/kernels/cross_entropy.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/vector.h"

namespace trireme {
namespace {

struct RowStatistics {
  float top, sum;  // the largest logit; the sum of exp(logit - top)
};

template <typename T>
RowStatistics StatisticsOf(const T* row, int64_t width) {
  const float first = ToFloat(row[0]);
  Vec largest = Broadcast(first);
  ForLanes(width, [&](int64_t i, auto count) {
    largest = Maximum(KeepLanes(Load(row + i, count), count, first), largest);
  });
  const float top = Maximum(largest);
  Vec sum{};
  ForLanes(width, [&](int64_t i, auto count) {
    sum += KeepLanes(Exp(Load(row + i, count) - top), count, 0.0f);
  });
  return {top, Sum(sum)};
}

// In double: the loss of a sure token is a small difference of large terms.
float LossOf(RowStatistics row, float target) {
  return static_cast<float>(std::log(static_cast<double>(row.sum)) +
                            (static_cast<double>(row.top) - static_cast<double>(target)));
}

// `gradient` may be `row`. label: a column, or none of the row's.
template <typename X, typename T>
void GradientOf(const X* row, int64_t width, RowStatistics statistics, int64_t label, float scale,
                T* gradient) {
  const float top = statistics.top, factor = scale / statistics.sum;
  // Before the row is overwritten: the label's element, rounded once.
  const bool here = label >= 0 && label < width;
  const float at_label =
      here ? factor * Exp(Broadcast(ToFloat(row[label]) - top))[0] - scale : 0.0f;
  ForLanes(width, [&](int64_t i, auto count) {
    Store(gradient + i, factor * Exp(Load(row + i, count) - top), count);
  });
  if (here) gradient[label] = FromFloat<T>(at_label);
}

}  // namespace

void SoftmaxStatistics(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                       int64_t first_row, const Tensor& row_max, const Tensor& row_sum,
                       const Tensor& target) {
  if (stream.OnGpu("SoftmaxStatistics")) {
    return cuda::SoftmaxStatistics(stream, logits, width, labels, first_row, row_max, row_sum,
                                   target);
  }
  const int64_t rows = logits.dim(0), stride = logits.dim(1);
  CHECK_EQ(labels.elements(), rows);
  CHECK_EQ(row_max.elements(), rows);
  CHECK_EQ(row_sum.elements(), rows);
  CHECK_EQ(target.elements(), rows);
  CHECK(width > 0 && width <= stride) << width << " of " << stride;
  const int32_t* label = labels.as<int32_t>();
  float *maxima = row_max.as<float>(), *sums = row_sum.as<float>(), *targets = target.as<float>();
  WithFloatType(logits.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const T* logits_0 = logits.as<T>();
    RowBlocks<4>(stream, rows, [&](int64_t n) {
      const T* row = logits_0 + n * stride;
      const RowStatistics statistics = StatisticsOf(row, width);
      maxima[n] = statistics.top;
      sums[n] = statistics.sum;
      const int64_t v = label[n] - first_row;
      targets[n] = label[n] != kNoLabel && v >= 0 && v < width ? ToFloat(row[v]) : 0.0f;
    });
  });
}

void TokenLosses(Stream& stream, const Tensor& labels, const Tensor& row_max, const Tensor& row_sum,
                 const Tensor& target, const Tensor& losses) {
  if (stream.OnGpu("TokenLosses")) {
    return cuda::TokenLosses(stream, labels, row_max, row_sum, target, losses);
  }
  const int64_t rows = labels.elements();
  CHECK_EQ(losses.elements(), rows);
  const int32_t* label = labels.as<int32_t>();
  const float *maxima = row_max.as<float>(), *sums = row_sum.as<float>();
  const float* targets = target.as<float>();
  float* out = losses.as<float>();
  for (int64_t n = 0; n < rows; ++n) {
    out[n] = label[n] == kNoLabel ? 0.0f : LossOf({maxima[n], sums[n]}, targets[n]);
  }
}

void SoftmaxGradient(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                     int64_t first_row, const Tensor& row_max, const Tensor& row_sum, float scale,
                     const Tensor& dlogits) {
  if (stream.OnGpu("SoftmaxGradient")) {
    return cuda::SoftmaxGradient(stream, logits, width, labels, first_row, row_max, row_sum, scale,
                                 dlogits);
  }
  const int64_t rows = logits.dim(0), stride = logits.dim(1);
  CheckSameShape(dlogits, logits, "dlogits");
  CHECK(width > 0 && width <= stride) << width << " of " << stride;
  CHECK_EQ(labels.elements(), rows);
  const int32_t* label = labels.as<int32_t>();
  const float *maxima = row_max.as<float>(), *sums = row_sum.as<float>();
  const auto run = [&](auto* of_logits, auto* of_gradient) {
    using X = std::remove_pointer_t<decltype(of_logits)>;
    using T = std::remove_pointer_t<decltype(of_gradient)>;
    const X* logits_0 = logits.as<X>();
    T* gradient_0 = dlogits.as<T>();
    RowBlocks<4>(stream, rows, [&](int64_t n) {
      T* gradient = gradient_0 + n * stride;
      if (label[n] == kNoLabel) {
        std::fill_n(gradient, stride, T{});
        return;
      }
      GradientOf(logits_0 + n * stride, width, {maxima[n], sums[n]}, label[n] - first_row, scale,
                 gradient);
      std::fill(gradient + width, gradient + stride, T{});
    });
  };
  WithFloatType(logits.dtype(), [&](auto* type) {
    if (dlogits.dtype() == logits.dtype()) return run(type, type);
    CHECK(logits.dtype() == DType::kF32 && dlogits.dtype() == DType::kBF16);
    run(static_cast<float*>(nullptr), static_cast<BFloat16*>(nullptr));
  });
}

void CrossEntropyInPlace(Stream& stream, const Tensor& logits, int64_t width, const Tensor& labels,
                         float scale, const Tensor& losses) {
  if (stream.OnGpu("CrossEntropyInPlace")) {
    return cuda::CrossEntropyInPlace(stream, logits, width, labels, scale, losses);
  }
  const int64_t rows = logits.dim(0), stride = logits.dim(1);
  CHECK(width > 0 && width <= stride) << width << " of " << stride;
  CHECK_EQ(labels.elements(), rows);
  CHECK_EQ(losses.elements(), rows);
  const int32_t* label = labels.as<int32_t>();
  float* loss = losses.as<float>();
  WithFloatType(logits.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    T* logits_0 = logits.as<T>();
    RowBlocks<4>(stream, rows, [&](int64_t n) {
      T* row = logits_0 + n * stride;
      std::fill(row + width, row + stride, T{});
      loss[n] = 0.0f;
      if (label[n] == kNoLabel) {
        std::fill_n(row, width, T{});
        return;
      }
      const RowStatistics statistics = StatisticsOf(row, width);
      loss[n] = LossOf(statistics, ToFloat(row[label[n]]));
      GradientOf(row, width, statistics, label[n], scale, row);
    });
  });
}

void SumF64(Stream& stream, const Tensor& x, double* sum) {
  if (stream.OnGpu("SumF64")) return cuda::SumF64(stream, x, sum);
  *sum = SumF64(stream, x);
}

double SumF64(Stream& stream, const Tensor& x) {
  if (stream.OnGpu("SumF64")) return cuda::SumF64(stream, x);
  constexpr int64_t kBlock = 4096;
  const float* values = x.as<float>();
  const int64_t n = x.elements();
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    double sum = 0;
    for (int64_t i = begin; i < std::min(n, begin + kBlock); ++i) sum += values[i];
    total += sum;
  }
  return total;
}

}  // namespace trireme
