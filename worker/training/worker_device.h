// What a worker computes on: this host's CPU cores or one of its GPUs, and the communicators for
// memory of it.
#pragma once

#include <memory>
#include <string>

#include "cluster/base/status.h"
#include "cluster/comm/communicator.h"
#include "cluster/device/stream.h"

namespace trireme {

namespace proto {
class Join;
class Plan;
}  // namespace proto

class WorkerDevice {
 public:
  // The cores that this worker computes with: `threads`, or its share of them if 0.
  static std::unique_ptr<WorkerDevice> Cpu(int threads, int workers_on_host);
  // The GPU of the `worker_on_host`-th worker of this host; where there are more workers than GPUs
  // they share. The calling thread, and those that it starts, are bound to the GPU's NUMA node.
  // kUnavailable with one line where there is no GPU.
  static Result<std::unique_ptr<WorkerDevice>> OpenGpu(int worker_on_host);

  Stream* stream() { return stream_.get(); }
  // Fills in cores, device, gpu, nccl, peak_flop_per_second and product_library.
  void Describe(bool bf16, proto::Join* join);
  // For memory of the device, of the rank that `host` belongs to and with the members of the plan:
  // on GPUs NCCL where every member has one of its own, and pinned buffers around `host` else. All
  // members decide the same. Owned here; `host` must outlive this.
  Result<CommunicatorFactory*> Transport(const proto::Plan& plan, CommunicatorFactory* host);
  // The most memory that this process' Buffers took of the device; on a CPU that of the process.
  int64_t MemoryBytesMax() const;

 private:
  WorkerDevice() = default;

  int threads_ = 1;
  std::string gpu_;  // its PCI bus id
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<CommunicatorFactory> transport_;
};

// Workers of this process that compute on the same device: `rank`'s GPU, or all of them on a CPU.
int WorkersOnDevice(const proto::Plan& plan, int rank);

// Whether NCCL can connect the plan's workers: each has a GPU of its own, and the same NCCL.
bool EachHasItsGpu(const proto::Plan& plan);

}  // namespace trireme
