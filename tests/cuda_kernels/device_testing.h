// A kernel on the CPU and on the GPU, on the same numbers. Linked with the SIMT backend this runs
// on any machine; linked with the CUDA backend it runs on a GPU.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "tests/worker_kernels/kernel_testing.h"

namespace trireme {

// A kernel's tensors: what it reads and writes, by index. An undefined one is Owned().
using Tensors = std::vector<Tensor>;
using Kernel = std::function<void(Stream&, const Tensors&)>;

// The tensors after the kernel has run on copies of them on a CPU stream.
inline std::vector<Owned> RunOnCpu(const Kernel& kernel, std::vector<Owned> tensors) {
  Stream stream(1);
  Tensors views;
  for (const Owned& tensor : tensors) {
    views.push_back(tensor.elements() > 0 ? tensor.view() : Tensor());
  }
  kernel(stream, views);
  return tensors;
}

// The same on the GPU, each tensor in an allocation of its own.
inline std::vector<Owned> RunOnGpuOnce(const Kernel& kernel, std::vector<Owned> tensors) {
  Stream stream(Gpu{0});
  std::vector<Buffer> buffers;
  Tensors views;
  for (const Owned& tensor : tensors) {
    const Tensor host = tensor.elements() > 0 ? tensor.view() : Tensor();
    buffers.emplace_back(host.defined() ? host.bytes() : 0, DeviceKind::kCuda);
    views.push_back(host.defined() ? buffers.back().AsTensor(host.dtype(), host.shape()) : host);
    if (host.defined()) stream.Copy(views.back().data(), host.data(), host.bytes());
  }
  kernel(stream, views);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (views[i].defined()) {
      stream.Copy(tensors[i].view().data(), views[i].data(), views[i].bytes());
    }
  }
  stream.Synchronize();
  return tensors;
}

// Twice, since no bit may depend on the order in which threads and blocks run.
inline std::vector<Owned> RunOnGpu(const Kernel& kernel, const std::vector<Owned>& tensors) {
  const std::vector<Owned> first = RunOnGpuOnce(kernel, tensors);
  const std::vector<Owned> second = RunOnGpuOnce(kernel, tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_TRUE(first[i] == second[i]) << "tensor " << i << " of another run";
  }
  return first;
}

// Tensors of the GPU's run must be the CPU's within the tolerance; bfloat16 ones within one unit in
// the last place besides. Returns the GPU's.
inline std::vector<Owned> ExpectGpuIsCpu(const Kernel& kernel, const std::vector<Owned>& tensors,
                                         double absolute, double relative) {
  const std::vector<Owned> cpu = RunOnCpu(kernel, tensors), gpu = RunOnGpu(kernel, tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (cpu[i].elements() == 0) continue;
    const bool is_bf16 = cpu[i].view().dtype() == DType::kBF16;
    ExpectNear(gpu[i], cpu[i].Doubles(), absolute, relative + (is_bf16 ? 1.0 / 128 : 0),
               StrCat("tensor ", i));
  }
  return gpu;
}

// The bits of every tensor must be the CPU's.
inline void ExpectGpuIsCpuExactly(const Kernel& kernel, const std::vector<Owned>& tensors) {
  const std::vector<Owned> cpu = RunOnCpu(kernel, tensors), gpu = RunOnGpu(kernel, tensors);
  for (size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_TRUE(cpu[i] == gpu[i]) << "tensor " << i;
  }
}

}  // namespace trireme
