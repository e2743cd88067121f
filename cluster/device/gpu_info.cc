#include "cluster/device/gpu_info.h"

#include <sched.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <sstream>

#include "cluster/device/cuda_device.h"

namespace trireme {
namespace {

std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

}  // namespace

Result<GpuVersions> CudaVersions() { return cuda::Versions(); }

Result<std::vector<GpuInfo>> Gpus() {
  ASSIGN_OR_RETURN(std::vector<GpuInfo> gpus, cuda::Gpus());
  for (GpuInfo& gpu : gpus) gpu.numa_node = NumaNodeOfPci(gpu.pci_bus_id);
  return gpus;
}

bool CanAccessPeer(int gpu, int peer) { return cuda::CanAccessPeer(gpu, peer); }

int NumaNodeOfPci(const std::string& pci_bus_id, const std::string& sysfs) {
  std::string id = pci_bus_id;  // the kernel's names are in lower case, CUDA's are not
  std::transform(id.begin(), id.end(), id.begin(), [](unsigned char c) { return std::tolower(c); });
  std::istringstream line(FirstLine(sysfs + "/bus/pci/devices/" + id + "/numa_node"));
  int node;
  return line >> node ? node : -1;
}

std::vector<int> CpusOfNumaNode(int node, const std::string& sysfs) {
  return ParseCpuList(FirstLine(StrCat(sysfs, "/devices/system/node/node", node, "/cpulist")));
}

std::vector<int> ParseCpuList(const std::string& list) {
  std::vector<int> cpus;
  std::istringstream ranges(list);
  for (std::string range; std::getline(ranges, range, ',');) {
    std::istringstream ends(range);
    int first, last;
    if (!(ends >> first)) continue;
    if (ends.get() != '-' || !(ends >> last)) last = first;
    for (int cpu = first; cpu <= last && cpu < CPU_SETSIZE; ++cpu) cpus.push_back(cpu);
  }
  return cpus;
}

bool BindThreadToNumaNode(int node, const std::string& sysfs) {
  // All of the node, not only what is the thread's now: mpirun has spread its ranks over cores or
  // nodes without a look at GPUs. The kernel takes off what the process may not use at all.
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  for (int cpu : CpusOfNumaNode(node, sysfs)) CPU_SET(cpu, &wanted);
  return CPU_COUNT(&wanted) > 0 && sched_setaffinity(0, sizeof(wanted), &wanted) == 0;
}

}  // namespace trireme
