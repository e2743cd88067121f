#include "cluster/device/no_cuda.h"

#include "worker/optimizer/cuda_optimizer.h"

namespace trireme::cuda {

void AdamW(Stream&, std::span<const AdamWSlice>, const AdamWStep&) { NoCuda("AdamW"); }
void AdamW(Stream&, std::span<const AdamWSlice>, const StepNumbers*) { NoCuda("AdamW"); }
void FinishNorm(Stream&, const double*, const int64_t*, int64_t, double, StepNumbers*) {
  NoCuda("FinishNorm");
}
void AdamWRounded(Stream&, std::span<const AdamWRoundedSlice>, const AdamWStep&, uint64_t) {
  NoCuda("AdamWRounded");
}
void AdamWRounded(Stream&, std::span<const AdamWRoundedSlice>, const StepNumbers*, uint64_t) {
  NoCuda("AdamWRounded");
}
uint64_t StateChecksum(Stream&, std::span<const ChecksumSlice>) { NoCuda("StateChecksum"); }
void SumsOfSquares(Stream&, const NormRange*, int64_t) { NoCuda("SumsOfSquares"); }

}  // namespace trireme::cuda
