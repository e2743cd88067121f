#include <algorithm>
#include <cmath>

#include "worker/kernels/cross_entropy.h"
#include "worker/kernels/cuda_kernels.h"

namespace trireme {

void CombineSoftmaxStatistics(Stream& stream, const Tensor& gathered, const Tensor& row_max,
                              const Tensor& row_sum, const Tensor& target) {
  if (stream.OnGpu("CombineSoftmaxStatistics")) {
    return cuda::CombineSoftmaxStatistics(stream, gathered, row_max, row_sum, target);
  }
  const int64_t ranks = gathered.dim(0), n = gathered.dim(2);
  CHECK_EQ(gathered.dim(1), 3);
  CHECK_EQ(row_max.elements(), n);
  const float* all = gathered.as<float>();
  float* max_out = row_max.as<float>();
  float* sum_out = row_sum.as<float>();
  float* target_out = target.as<float>();
  for (int64_t i = 0; i < n; ++i) {
    float largest = all[i];
    for (int64_t r = 1; r < ranks; ++r) largest = std::max(largest, all[r * 3 * n + i]);
    float sum = 0, logit = 0;
    for (int64_t r = 0; r < ranks; ++r) {
      const float* of_rank = all + r * 3 * n;
      sum += of_rank[n + i] * std::exp(of_rank[i] - largest);
      logit += of_rank[2 * n + i];
    }
    max_out[i] = largest;
    sum_out[i] = sum;
    target_out[i] = logit;
  }
}

}  // namespace trireme
