#include <cmath>

#include "worker/kernels/cross_entropy.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/vector.h"

namespace trireme {
namespace {

constexpr int64_t kRowBlock = 4;

template <typename Body>
void RowBlocks(Stream& stream, int64_t rows, const Body& body) {
  stream.ParallelFor(CeilDivide(rows, kRowBlock), [&](int64_t block) {
    for (int64_t n = block * kRowBlock; n < std::min(rows, (block + 1) * kRowBlock); ++n) body(n);
  });
}

}  // namespace

void SoftmaxStatistics(Stream& stream, const Tensor& logits, const Tensor& labels,
                       int64_t first_row, const Tensor& row_max, const Tensor& row_sum,
                       const Tensor& target) {
  if (stream.OnGpu("SoftmaxStatistics")) {
    return cuda::SoftmaxStatistics(stream, logits, labels, first_row, row_max, row_sum, target);
  }
  const int64_t rows = logits.dim(0), width = logits.dim(1);
  CHECK_EQ(labels.elements(), rows);
  CHECK_EQ(row_max.elements(), rows);
  CHECK_EQ(row_sum.elements(), rows);
  CHECK_EQ(target.elements(), rows);
  CHECK_GT(width, 0);
  const float* logits_0 = logits.as<float>();
  const int32_t* label = labels.as<int32_t>();
  float *maxima = row_max.as<float>(), *sums = row_sum.as<float>(), *targets = target.as<float>();
  RowBlocks(stream, rows, [&](int64_t n) {
    const float* row = logits_0 + n * width;
    Vec largest = Broadcast(row[0]);
    ForLanes(width, [&](int64_t i, auto count) {
      largest = Maximum(KeepLanes(Load(row + i, count), count, row[0]), largest);
    });
    const float top = Maximum(largest);
    Vec sum{};
    ForLanes(width, [&](int64_t i, auto count) {
      sum += KeepLanes(Exp(Load(row + i, count) - top), count, 0.0f);
    });
    maxima[n] = top;
    sums[n] = Sum(sum);
    const int64_t v = label[n] - first_row;
    targets[n] = label[n] != kNoLabel && v >= 0 && v < width ? row[v] : 0.0f;
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
    // In double: the loss of a sure token is a small difference of large terms.
    const double loss = std::log(static_cast<double>(sums[n])) +
                        (static_cast<double>(maxima[n]) - static_cast<double>(targets[n]));
    out[n] = label[n] == kNoLabel ? 0.0f : static_cast<float>(loss);
  }
}

void SoftmaxGradient(Stream& stream, const Tensor& logits, const Tensor& labels, int64_t first_row,
                     const Tensor& row_max, const Tensor& row_sum, float scale,
                     const Tensor& dlogits) {
  if (stream.OnGpu("SoftmaxGradient")) {
    return cuda::SoftmaxGradient(stream, logits, labels, first_row, row_max, row_sum, scale,
                                 dlogits);
  }
  const int64_t rows = logits.dim(0), width = logits.dim(1);
  CheckSameShape(dlogits, logits, "dlogits");
  CHECK_EQ(labels.elements(), rows);
  const float* logits_0 = logits.as<float>();
  const int32_t* label = labels.as<int32_t>();
  const float *maxima = row_max.as<float>(), *sums = row_sum.as<float>();
  WithFloatType(dlogits.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    T* gradient_0 = dlogits.as<T>();
    RowBlocks(stream, rows, [&](int64_t n) {
      const float* row = logits_0 + n * width;
      T* gradient = gradient_0 + n * width;
      if (label[n] == kNoLabel) {
        ForLanes(width, [&](int64_t i, auto count) { Store(gradient + i, Vec{}, count); });
        return;
      }
      const int64_t v = label[n] - first_row;
      const float top = maxima[n], factor = scale / sums[n];
      // Before the row is overwritten: the label's element, rounded once.
      const bool here = v >= 0 && v < width;
      const float at_label = here ? factor * Exp(Broadcast(row[v] - top))[0] - scale : 0.0f;
      ForLanes(width, [&](int64_t i, auto count) {
        Store(gradient + i, factor * Exp(Load(row + i, count) - top), count);
      });
      if (here) gradient[v] = FromFloat<T>(at_label);
    });
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
    RowBlocks(stream, rows, [&](int64_t n) {
      T* row = logits_0 + n * stride;
      const bool labelled = label[n] != kNoLabel;
      const float target = labelled ? ToFloat(row[label[n]]) : 0.0f;
      Vec largest = Broadcast(ToFloat(row[0]));
      ForLanes(width, [&](int64_t i, auto count) {
        largest = Maximum(KeepLanes(Load(row + i, count), count, ToFloat(row[0])), largest);
      });
      const float top = Maximum(largest);
      Vec exponentials{};
      ForLanes(width, [&](int64_t i, auto count) {
        exponentials += KeepLanes(Exp(Load(row + i, count) - top), count, 0.0f);
      });
      const float sum = Sum(exponentials), factor = labelled ? scale / sum : 0.0f;
      // In double, as in TokenLosses.
      const double below = static_cast<double>(top) - static_cast<double>(target);
      loss[n] = labelled ? static_cast<float>(std::log(static_cast<double>(sum)) + below) : 0.0f;
      const float at_label = factor * Exp(Broadcast(target - top))[0] - scale;
      ForLanes(width, [&](int64_t i, auto count) {
        const Vec p = factor * Exp(Load(row + i, count) - top);
        Store(row + i, labelled ? p : Vec{}, count);
      });
      if (labelled) row[label[n]] = FromFloat<T>(at_label);
      std::fill(row + width, row + stride, T{});
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
