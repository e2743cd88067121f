#include <numeric>
#include <vector>

#include "worker/kernels/stream_scratch.cuh"
#include "worker/optimizer/adamw.cuh"
#include "worker/optimizer/cuda_optimizer.h"

namespace trireme::cuda {
namespace {

// Deals slices to tables in order; calls launch(table, blocks) for each.
template <typename Slice, typename IsPacked, typename LaunchTable>
void ForTables(std::span<const Slice> slices, int64_t block_elements, const IsPacked& is_packed,
               const LaunchTable& launch) {
  gpu::SliceTable<Slice> table = {};
  unsigned blocks = 0;
  for (size_t s = 0; s < slices.size(); ++s) {
    if (slices[s].n > 0) {
      const int i = table.count++;
      table.slices[i] = slices[s];
      table.packed[i] = is_packed(slices[s]);
      table.first_block[i] = blocks;
      blocks += gpu::BlocksFor(slices[s].n, block_elements);
    }
    const bool last = s + 1 == slices.size();
    if (table.count == 0 || !(last || table.count == gpu::SliceTable<Slice>::kSlices)) continue;
    table.first_block[table.count] = blocks;
    launch(table, blocks);
    table.count = 0;
    blocks = 0;
  }
}

template <typename... Pointers>
bool AllPackAligned(Pointers... pointers) {
  return (gpu::IsPackAligned(pointers) && ...);
}

template <typename Numbers>
void LaunchAdamW(Stream& stream, std::span<const AdamWSlice> slices, const Numbers& numbers) {
  ForTables(
      slices, gpu::kUpdateElements,
      [](const AdamWSlice& s) {
        return AllPackAligned(s.gradient, s.p, s.m, s.v, s.p_next, s.m_next, s.v_next, s.p_compute);
      },
      [&](const gpu::SliceTable<AdamWSlice>& table, unsigned blocks) {
        gpu::Launch(stream, {blocks, gpu::kUpdateThreads},
                    gpu::AdamWKernel<gpu::kUpdateThreads, Numbers>, table, numbers);
      });
}

template <typename Numbers>
void LaunchAdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices,
                        const Numbers& numbers, uint64_t seed) {
  ForTables(
      slices, gpu::kUpdateElements,
      [](const AdamWRoundedSlice& s) {
        CHECK_GE(s.first_element, 0);
        return s.first_element % kElementsOfBlock == 0 &&
               AllPackAligned(s.gradient, s.p, s.m, s.v, s.p_next, s.m_next, s.v_next);
      },
      [&](const gpu::SliceTable<AdamWRoundedSlice>& table, unsigned blocks) {
        gpu::Launch(stream, {blocks, gpu::kUpdateThreads},
                    gpu::AdamWRoundedKernel<gpu::kUpdateThreads, Numbers>, table, numbers, seed);
      });
}

}  // namespace

void AdamW(Stream& stream, std::span<const AdamWSlice> slices, const AdamWStep& step) {
  LaunchAdamW(stream, slices, gpu::GivenNumbers{AdamWFactorsOf(step), step.t});
}

void AdamW(Stream& stream, std::span<const AdamWSlice> slices, const StepNumbers* numbers) {
  LaunchAdamW(stream, slices, gpu::NumbersOnDevice{numbers});
}

void FinishNorm(Stream& stream, const double* table, const int64_t* row_ends, int64_t rows,
                double clip_norm, StepNumbers* numbers) {
  const gpu::StreamScratch<double> row_sums(stream, rows);
  gpu::Launch(stream, {1, gpu::kUpdateThreads}, gpu::FinishNormKernel<gpu::kUpdateThreads>, table,
              row_ends, rows, clip_norm, row_sums.data(), numbers);
}

void AdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices, const AdamWStep& step,
                  uint64_t seed) {
  LaunchAdamWRounded(stream, slices, gpu::GivenNumbers{AdamWFactorsOf(step), step.t}, seed);
}

void AdamWRounded(Stream& stream, std::span<const AdamWRoundedSlice> slices,
                  const StepNumbers* numbers, uint64_t seed) {
  LaunchAdamWRounded(stream, slices, gpu::NumbersOnDevice{numbers}, seed);
}

void SumsOfSquares(Stream& stream, const NormRange* ranges, int64_t count) {
  gpu::Launch(stream, {gpu::BlocksFor(count, 1), gpu::kSquaresThreads},
              gpu::SumsOfSquaresKernel<gpu::kSquaresThreads>, ranges);
}

uint64_t StateChecksum(Stream& stream, std::span<const ChecksumSlice> slices) {
  std::vector<gpu::BitSlice> bits;
  int64_t blocks_of_all = 0;
  for (const ChecksumSlice& slice : slices) {
    const Tensor& x = slice.elements;
    const auto bytes = static_cast<int>(ByteSize(x.dtype()));
    CHECK(bytes == 2 || bytes == 4 || bytes == 8) << DTypeName(x.dtype());
    bits.push_back({x.data(), x.elements(), slice.first_element, bytes});
    blocks_of_all += gpu::BlocksFor(x.elements(), gpu::kChecksumElements);
  }
  const gpu::StreamScratch<uint64_t> sums(stream, blocks_of_all);
  int64_t first = 0;
  ForTables(
      std::span<const gpu::BitSlice>(bits), gpu::kChecksumElements,
      [](const gpu::BitSlice& s) { return gpu::IsPackAligned(s.data); },
      [&](const gpu::SliceTable<gpu::BitSlice>& table, unsigned blocks) {
        gpu::Launch(stream, {blocks, gpu::kUpdateThreads},
                    gpu::StateChecksumKernel<gpu::kUpdateThreads>, table, sums.data() + first);
        first += blocks;
      });
  std::vector<uint64_t> on_host(blocks_of_all);
  stream.Copy(on_host.data(), sums.data(), sums.bytes());
  stream.Synchronize();
  return std::accumulate(on_host.begin(), on_host.end(), uint64_t{0});
}

}  // namespace trireme::cuda
