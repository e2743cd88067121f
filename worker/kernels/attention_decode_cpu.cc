#include "worker/kernels/attention.h"
#include "worker/kernels/attention_forward.h"
#include "worker/kernels/attention_tile.h"
#include "worker/kernels/cuda_kernels.h"

namespace trireme {
namespace {

// Prompts go through blocks; from one token to this many, each reads the cache by itself.
constexpr int64_t kTokensMax = 16;

// Token t of sequence b, all query heads of a key head: the cache is read once for them.
template <typename T>
void DecodeToken(const Heads& q, const Heads& keys, const Heads& values, int64_t b, int64_t t,
                 int64_t key_head, int64_t visible, float scale, const Heads& out) {
  thread_local ThreadScratch scratch;
  const int64_t d = q.head_dim, group = q.heads / keys.heads, first = key_head * group;
  scratch.Reset(ThreadScratch::Bytes<float>(group * visible) +
                ThreadScratch::Bytes<float>(group * d) + ThreadScratch::Bytes<float>(group));
  float* scores = scratch.Take<float>(group * visible);
  float* sums = scratch.Take<float>(group * d);
  float* inverse = scratch.Take<float>(group);
  for (int64_t s = 0; s < visible; ++s) {
    const T* key = HeadRow<T>(keys, b, s, key_head);
    for (int64_t g = 0; g < group; ++g) {
      const T* query = HeadRow<T>(q, b, t, first + g);
      Vec dot{};
      ForLanes(d, [&](int64_t i, auto count) {
        dot = Fma(Load(query + i, count), Load(key + i, count), dot);
      });
      scores[g * visible + s] = Sum(dot);
    }
  }
  const Range all{0, visible};
  for (int64_t g = 0; g < group; ++g) {
    float* row = scores + g * visible;
    const float top = RowMaximum(row, all) * scale;
    inverse[g] = 1.0f / RowExponentials(row, row, all, visible, scale, top);
  }
  Zero(sums, 0, group * d);
  for (int64_t s = 0; s < visible; ++s) {
    const T* value = HeadRow<T>(values, b, s, key_head);
    for (int64_t g = 0; g < group; ++g) {
      const Vec p = Broadcast(scores[g * visible + s]);
      ForLanes(d, [&](int64_t i, auto count) {
        float* sum = sums + g * d + i;
        Store(sum, Fma(p, Load(value + i, count), Load(sum, count)), count);
      });
    }
  }
  for (int64_t g = 0; g < group; ++g) {
    T* row = HeadRow<T>(out, b, t, first + g);
    ForLanes(d, [&](int64_t i, auto count) {
      Store(row + i, Load(sums + g * d + i, count) * inverse[g], count);
    });
  }
}

}  // namespace

void AttentionDecode(Stream& stream, const Heads& q, const Heads& keys, const Heads& values,
                     const Tensor& lengths, float scale, const Heads& out) {
  if (stream.OnGpu("AttentionDecode")) {
    return cuda::AttentionDecode(stream, q, keys, values, lengths, scale, out);
  }
  CheckQueriesAndKeys(q, keys, values);
  CheckSameHeads(q, out, "out");
  CHECK_GT(scale, 0);
  CHECK_EQ(lengths.elements(), q.batch);
  const int32_t* length = lengths.as<int32_t>();
  for (int64_t b = 0; b < q.batch; ++b) {
    CHECK(length[b] >= q.length && length[b] <= keys.length)
        << length[b] << " positions filled, " << q.length << " of them new, room for "
        << keys.length;
  }
  if (q.length > kTokensMax) {
    AttentionBlocks(stream, q, keys, values, scale, length, nullptr, out, nullptr);
    return;
  }
  WithFloatType(q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    stream.ParallelFor(q.batch * keys.heads, [&](int64_t task) {
      const int64_t b = task / keys.heads;
      for (int64_t t = 0; t < q.length; ++t) {
        DecodeToken<T>(q, keys, values, b, t, task % keys.heads, length[b] - q.length + t + 1,
                       scale, out);
      }
    });
  });
}

}  // namespace trireme
