#include "worker/training/worker_device.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <string_view>
#include <utility>

#include "cluster/comm/nccl_communicator.h"
#include "cluster/comm/staged_communicator.h"
#include "cluster/device/buffer.h"
#include "cluster/device/gpu_info.h"
#include "proto/config.pb.h"
#include "proto/control.pb.h"
#include "worker/kernels/matmul.h"
#include "worker/training/training_worker.h"

namespace trireme {
namespace {

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

int ThreadsOf(int configured, int workers_on_host) {
  if (configured > 0) return configured;
  const auto cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  return std::max(1, std::min(UsableCores(), cores / std::max(1, workers_on_host)));
}

}  // namespace

std::unique_ptr<WorkerDevice> WorkerDevice::Cpu(int threads, int workers_on_host) {
  std::unique_ptr<WorkerDevice> device(new WorkerDevice);
  device->threads_ = ThreadsOf(threads, workers_on_host);
  device->stream_ = std::make_unique<Stream>(device->threads_);
  return device;
}

Result<std::unique_ptr<WorkerDevice>> WorkerDevice::OpenGpu(int worker_on_host) {
  ASSIGN_OR_RETURN(const std::vector<GpuInfo> gpus, Gpus());
  const GpuInfo& gpu = gpus[worker_on_host % gpus.size()];
  if (gpu.numa_node >= 0 && !BindThreadToNumaNode(gpu.numa_node)) {
    LOG(WARNING) << "GPU " << gpu.ordinal << " is nearest to NUMA node " << gpu.numa_node
                 << ", whose cores this process may not use";
  }
  LOG(INFO) << "GPU " << gpu.ordinal << ": " << gpu.name << ", " << gpu.pci_bus_id;
  std::unique_ptr<WorkerDevice> device(new WorkerDevice);
  device->gpu_ = gpu.pci_bus_id;
  device->stream_ = std::make_unique<Stream>(Gpu{gpu.ordinal});
  return device;
}

void WorkerDevice::Describe(bool bf16, proto::Join* join) {
  join->set_cores(threads_);
  join->set_device(gpu_.empty() ? "cpu" : "cuda");
  join->set_gpu(gpu_);
  join->set_product_library(MatMulLibrary());
  if (!gpu_.empty()) {
    if (const auto nccl = NcclDescription(); nccl.ok()) join->set_nccl(nccl.value());
  }
  join->set_peak_flop_per_second(MeasureProductPeak(*stream_, bf16));
}

int WorkersOnDevice(const proto::Plan& plan, int rank) {
  const auto& members = plan.members();
  const auto own = std::find_if(members.begin(), members.end(), [&](const proto::Member& member) {
    return member.place() == rank;
  });
  CHECK(own != members.end()) << "rank " << rank << " is in no place of the plan";
  return static_cast<int>(std::count_if(members.begin(), members.end(), [&](const auto& member) {
    return member.place() >= 0 && member.host() == own->host() && member.pid() == own->pid() &&
           member.gpu() == own->gpu();
  }));
}

bool EachHasItsGpu(const proto::Plan& plan) {
  std::set<std::pair<std::string, std::string>> places;
  std::set<std::string> versions;
  int workers = 0;
  for (const proto::Member& member : plan.members()) {
    if (member.place() < 0) continue;
    ++workers;
    places.emplace(member.host(), member.gpu());
    versions.insert(member.nccl());
    if (member.gpu().empty() || member.nccl().empty()) return false;
  }
  return static_cast<int>(places.size()) == workers && versions.size() == 1;
}

Result<CommunicatorFactory*> WorkerDevice::Transport(const proto::Plan& plan,
                                                     CommunicatorFactory* host) {
  if (gpu_.empty() || plan.data() * plan.tensor() * plan.pipeline() < 2) return host;
  if (EachHasItsGpu(plan)) {
    NcclOptions options;
    const char* sums = std::getenv("TRIREME_NCCL_SUMS");
    options.fast_sums = sums != nullptr && std::string_view(sums) == "fast";
    ASSIGN_OR_RETURN(transport_, NcclWorld(host, stream_.get(), options));
    LOG(INFO) << "communication by NCCL, sums in "
              << (options.fast_sums ? "its own order: equal bits are not promised"
                                    : "the order of every other transport");
  } else {
    transport_ = StagedWorld(host, stream_.get());
    LOG(INFO) << "communication through memory of the host: workers share a GPU, or have no NCCL";
  }
  return transport_.get();
}

int64_t WorkerDevice::MemoryBytesMax() const {
  if (!gpu_.empty()) {
    return BufferMemoryOfGpu(stream_->gpu()).bytes_max + OperationBytesMaxOfGpu(stream_->gpu());
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace trireme
