#include "worker/kernels/attention_cuda.cuh"
#include "worker/kernels/attention_forward.cuh"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/stream_scratch.cuh"

namespace trireme::cuda {
namespace {

// Up to this many query rows of a key head, each split of the cache is read by a block of its own.
constexpr int64_t kDecodeRowsMax = 16;
constexpr int kSplitKeys = 256;

template <typename T>
gpu::ForwardArgs<T> ArgsOf(const Heads& q, const Heads& k, const Heads& v, float scale,
                           const Heads& out) {
  gpu::ForwardArgs<T> a = {};
  a.q = gpu::ViewOf<const T>(q);
  a.k = gpu::ViewOf<const T>(k);
  a.v = gpu::ViewOf<const T>(v);
  a.out = gpu::ViewOf<T>(out);
  a.scale = scale;
  a.heads = static_cast<int>(q.heads);
  a.group = static_cast<int>(q.heads / k.heads);
  a.tile_heads = 1;
  a.splits = 1;
  return a;
}

template <typename Shape, typename T>
void LaunchForward(Stream& stream, const gpu::ForwardArgs<T>& a, int64_t batch) {
  const int64_t rows = a.q.length * a.tile_heads;
  const dim3 grid(gpu::BlocksFor(rows, Shape::kQueries) * a.splits,
                  static_cast<unsigned>(a.heads / a.tile_heads), static_cast<unsigned>(batch));
  gpu::Launch(stream, {grid, Shape::kThreads}, gpu::AttentionForwardKernel<Shape, T>, a);
}

}  // namespace

void AttentionForward(Stream& stream, const Heads& q, const Heads& k, const Heads& v, float scale,
                      const Tensor& document_starts, const Heads& out, const Tensor& log_sum_exp) {
  CheckAttention(q, k, v, scale);
  CheckSameHeads(q, out, "out");
  CHECK_EQ(q.length, k.length);
  CHECK_EQ(log_sum_exp.elements(), q.batch * q.heads * q.length);
  WithFloatType(q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    gpu::ForwardArgs<T> a = ArgsOf<T>(q, k, v, scale, out);
    a.log_sum_exp = log_sum_exp.as<float>();
    a.starts = DocumentStarts(document_starts, q);
    WithHeadDim(q.head_dim, [&](auto d) {
      LaunchForward<typename gpu::ForwardShapes<d()>::Training>(stream, a, q.batch);
    });
  });
}

// Lengths are on the device: that they fit the cache is not checked here.
void AttentionDecode(Stream& stream, const Heads& q, const Heads& keys, const Heads& values,
                     const Tensor& lengths, float scale, const Heads& out) {
  CheckAttention(q, keys, values, scale);
  CheckSameHeads(q, out, "out");
  CHECK_EQ(lengths.elements(), q.batch);
  CHECK_LE(q.length, keys.length);
  WithFloatType(q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    gpu::ForwardArgs<T> a = ArgsOf<T>(q, keys, values, scale, out);
    a.lengths = lengths.as<int32_t>();
    if (a.group * q.length > kDecodeRowsMax) {
      WithHeadDim(q.head_dim, [&](auto d) {
        LaunchForward<typename gpu::ForwardShapes<d()>::Training>(stream, a, q.batch);
      });
      return;
    }
    a.tile_heads = a.group;
    a.split_keys = kSplitKeys;
    a.splits = static_cast<int>(CeilDivide(keys.length, kSplitKeys));
    const int64_t rows = q.batch * q.heads * q.length, parts = a.splits > 1 ? rows * a.splits : 0;
    const gpu::StreamScratch<float> partial_out(stream, parts * q.head_dim);
    const gpu::StreamScratch<float> partial_stat(stream, parts * 2);
    a.partial_out = partial_out.data();
    a.partial_stat = partial_stat.data();
    WithHeadDim(q.head_dim, [&](auto d) {
      LaunchForward<typename gpu::ForwardShapes<d()>::Decode>(stream, a, q.batch);
    });
    if (a.splits == 1) return;
    gpu::Launch(stream, {gpu::BlocksFor(rows, 1), gpu::kWarp},
                gpu::CombineSplitsKernel<gpu::kWarp, T>, a);
  });
}

}  // namespace trireme::cuda
