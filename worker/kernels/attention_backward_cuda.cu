#include "worker/kernels/attention_backward.cuh"
#include "worker/kernels/attention_cuda.cuh"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/stream_scratch.cuh"

namespace trireme::cuda {
namespace {

constexpr int kDeltaThreads = 128;

template <typename Shape, typename T>
void LaunchGradients(Stream& stream, const gpu::BackwardArgs<T>& a, int64_t batch) {
  const unsigned tiles = gpu::BlocksFor(a.q.length, Shape::kTile);
  const auto sequences = static_cast<unsigned>(batch);
  gpu::Launch(stream, {dim3(tiles, static_cast<unsigned>(a.key_heads), sequences), Shape::kThreads},
              gpu::AttentionKeyGradientKernel<Shape, T>, a);
  gpu::Launch(stream,
              {dim3(tiles, static_cast<unsigned>(a.heads), sequences), Shape::kScoreThreads},
              gpu::AttentionQueryGradientKernel<Shape, T>, a);
}

}  // namespace

void AttentionBackward(Stream& stream, const Heads& dout, const Heads& q, const Heads& k,
                       const Heads& v, const Heads& out, const Tensor& log_sum_exp, float scale,
                       const Tensor& document_starts, const Heads& dq, const Heads& dk,
                       const Heads& dv) {
  CheckAttention(q, k, v, scale);
  for (const Heads* heads : {&dout, &out, &dq}) CheckSameHeads(q, *heads, "query heads");
  for (const Heads* heads : {&dk, &dv}) CheckSameHeads(k, *heads, "key heads");
  CHECK_EQ(q.length, k.length);
  const int64_t rows = q.batch * q.heads * q.length;
  CHECK_EQ(log_sum_exp.elements(), rows);
  const gpu::StreamScratch<float> delta(stream, rows);
  WithFloatType(q.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    gpu::BackwardArgs<T> a = {};
    a.dout = gpu::ViewOf<const T>(dout);
    a.q = gpu::ViewOf<const T>(q);
    a.k = gpu::ViewOf<const T>(k);
    a.v = gpu::ViewOf<const T>(v);
    a.out = gpu::ViewOf<const T>(out);
    a.dq = gpu::ViewOf<T>(dq);
    a.dk = gpu::ViewOf<T>(dk);
    a.dv = gpu::ViewOf<T>(dv);
    a.log_sum_exp = log_sum_exp.as<float>();
    a.delta = delta.data();
    a.starts = DocumentStarts(document_starts, q);
    a.scale = scale;
    a.heads = static_cast<int>(q.heads);
    a.key_heads = static_cast<int>(k.heads);
    gpu::Launch(stream, {gpu::BlocksFor(rows, kDeltaThreads / gpu::kWarp), kDeltaThreads},
                gpu::AttentionDeltaKernel<kDeltaThreads, T>, a, rows);
    WithHeadDim(q.head_dim,
                [&](auto d) { LaunchGradients<gpu::BackwardShapes<d()>>(stream, a, q.batch); });
  });
}

}  // namespace trireme::cuda
