#include <utility>

#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/embedding.cuh"
#include "worker/kernels/embedding.h"
#include "worker/kernels/embedding_backward.cuh"
#include "worker/kernels/stream_scratch.cuh"

namespace trireme::cuda {
namespace {

constexpr int kEmbeddingPack = 8;

// Calls body(width, a, b): width a constant of 8 where both tensors' rows of `hidden` are made of
// packs, else of 1; the typed pointers of both.
template <typename Body>
void WithRows(int64_t hidden, const Tensor& a, const Tensor& b, const Body& body) {
  const bool packed =
      hidden % kEmbeddingPack == 0 && gpu::IsPackAligned(a.data()) && gpu::IsPackAligned(b.data());
  WithFloatTypes(a.dtype(), b.dtype(), [&](auto* a_type, auto* b_type) {
    auto* a_0 = a.as<std::remove_pointer_t<decltype(a_type)>>();
    auto* b_0 = b.as<std::remove_pointer_t<decltype(b_type)>>();
    if (packed) {
      body(std::integral_constant<int, kEmbeddingPack>(), a_0, b_0);
    } else {
      body(std::integral_constant<int, 1>(), a_0, b_0);
    }
  });
}

gpu::LaunchShape PieceShape(int64_t elements, int width) {
  return {gpu::BlocksFor(elements, gpu::kEmbeddingThreads * width), gpu::kEmbeddingThreads};
}

// The tokens' keys, ascending, in one half or the other of `scratch`: [2, tokens].
const gpu::TokenKey* SortTokens(Stream& stream, const Tensor& ids, int64_t first_row, int64_t rows,
                                gpu::TokenKey* scratch) {
  const int64_t tokens = ids.elements();
  const gpu::LaunchShape shape{gpu::BlocksFor(tokens, gpu::kSortedPiece), gpu::kSortedPiece};
  gpu::TokenKey *keys = scratch, *merged = scratch + tokens;
  gpu::Launch(stream, shape, gpu::TokenKeysKernel, ids.as<int32_t>(), first_row, rows, tokens,
              keys);
  for (int64_t run = gpu::kSortedPiece; run < tokens; run *= gpu::kRunsMerged) {
    gpu::Launch(stream, shape, gpu::MergeRunsKernel, keys, tokens, run, merged);
    std::swap(keys, merged);
  }
  return keys;
}

}  // namespace

void EmbeddingForward(Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                      const Tensor& y) {
  const int64_t hidden = table.dim(1), tokens = ids.elements();
  CHECK_EQ(y.elements(), tokens * hidden);
  WithRows(hidden, table, y, [&](auto width, auto* in, auto* out) {
    using In = std::remove_pointer_t<decltype(in)>;
    using Out = std::remove_pointer_t<decltype(out)>;
    constexpr int kWidth = decltype(width)::value;
    gpu::Launch(stream, PieceShape(tokens * hidden, kWidth),
                gpu::EmbeddingForwardKernel<kWidth, In, Out>, ids.as<int32_t>(), in, first_row,
                table.dim(0), tokens, hidden, out);
  });
}

void EmbeddingBackward(Stream& stream, const Tensor& ids, const Tensor& dy, int64_t first_row,
                       const Tensor& dtable, bool accumulate) {
  const int64_t hidden = dtable.dim(1), tokens = ids.elements();
  CHECK_EQ(dy.elements(), tokens * hidden);
  CHECK_LT(tokens, int64_t{1} << 32);
  if (!accumulate) stream.Fill(dtable.data(), 0, dtable.bytes());
  const gpu::StreamScratch<gpu::TokenKey> scratch(stream, 2 * tokens);
  const gpu::TokenKey* keys = SortTokens(stream, ids, first_row, dtable.dim(0), scratch.data());
  WithRows(hidden, dy, dtable, [&](auto width, auto* in, auto*) {
    using T = std::remove_pointer_t<decltype(in)>;
    constexpr int kWidth = decltype(width)::value;
    const gpu::LaunchShape runs{dim3(gpu::BlocksFor(tokens, gpu::kPlacesEach),
                                     gpu::BlocksFor(hidden, gpu::kEmbeddingThreads * kWidth)),
                                gpu::kEmbeddingThreads};
    gpu::Launch(stream, runs, gpu::EmbeddingBackwardKernel<kWidth, T>, keys, in, tokens, hidden,
                dtable.as<float>());
    if (tokens <= gpu::kShortRun) return;
    const gpu::LaunchShape long_runs{
        dim3(gpu::BlocksFor(tokens, gpu::kShortRun), gpu::BlocksFor(hidden, gpu::kStripColumns)),
        gpu::kEmbeddingThreads};
    gpu::Launch(stream, long_runs, gpu::LongRunsKernel<kWidth, T>, keys, in, tokens, hidden,
                dtable.as<float>());
  });
}

void PositionEmbeddingForward(Stream& stream, const Tensor& positions, const Tensor& table,
                              const Tensor& y) {
  const int64_t hidden = table.dim(1), tokens = positions.elements();
  CHECK_EQ(y.elements(), tokens * hidden);
  WithRows(hidden, table, y, [&](auto width, auto* in, auto* out) {
    using In = std::remove_pointer_t<decltype(in)>;
    using Out = std::remove_pointer_t<decltype(out)>;
    constexpr int kWidth = decltype(width)::value;
    gpu::Launch(stream, PieceShape(tokens * hidden, kWidth),
                gpu::PositionEmbeddingKernel<kWidth, In, Out>, positions.as<int32_t>(), in,
                table.dim(0), tokens, hidden, out);
  });
}

}  // namespace trireme::cuda
