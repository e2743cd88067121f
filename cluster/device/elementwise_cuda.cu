#include "cluster/device/cuda_device.h"
#include "cluster/device/elementwise.cuh"

namespace trireme::cuda {

void AddInPlace(Stream& stream, float* target, const float* source, int64_t n) {
  gpu::Launch(stream, gpu::ElementShape(n), gpu::AddKernel<float, float, float>, target, source,
              target, n, gpu::ArePackAligned(target, source));
}

void CastToBFloat16(Stream& stream, BFloat16* target, const float* source, int64_t n) {
  gpu::Launch(stream, gpu::ElementShape(n), gpu::CastKernel<float, BFloat16>, source, target, n,
              gpu::ArePackAligned(target, source));
}

void CastToFloat(Stream& stream, float* target, const BFloat16* source, int64_t n) {
  gpu::Launch(stream, gpu::ElementShape(n), gpu::CastKernel<BFloat16, float>, source, target, n,
              gpu::ArePackAligned(target, source));
}

}  // namespace trireme::cuda
