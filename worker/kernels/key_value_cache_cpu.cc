#include "worker/kernels/attention.h"
#include "worker/kernels/cuda_kernels.h"

namespace trireme {

void AppendToCache(Stream& stream, const Heads& x, const Tensor& lengths, const Heads& cache) {
  CHECK(x.dtype == cache.dtype);
  CHECK_EQ(x.batch, cache.batch);
  CHECK_EQ(x.heads * x.head_dim, cache.heads * cache.head_dim);
  CHECK_EQ(lengths.elements(), x.batch);
  if (stream.OnGpu("AppendToCache")) return cuda::AppendToCache(stream, x, lengths, cache);
  const int64_t element = ByteSize(x.dtype), bytes = x.heads * x.head_dim * element;
  const auto* from = static_cast<const std::byte*>(x.data);
  auto* to = static_cast<std::byte*>(cache.data);
  for (int64_t b = 0; b < x.batch; ++b) {
    const int64_t first = lengths.as<int32_t>()[b] - x.length;
    CHECK(first >= 0 && first + x.length <= cache.length)
        << x.length << " tokens from position " << first << ", room for " << cache.length;
    for (int64_t t = 0; t < x.length; ++t) {
      stream.Copy(to + (b * cache.length + first + t) * cache.row_stride * element,
                  from + (b * x.length + t) * x.row_stride * element, bytes);
    }
  }
}

}  // namespace trireme
