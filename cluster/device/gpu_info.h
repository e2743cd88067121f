// The GPUs of this machine and where they sit. GPUs are counted as CUDA counts them: from 0, among
// those that CUDA_VISIBLE_DEVICES leaves.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/base/status.h"

namespace trireme {

struct GpuVersions {
  int driver;   // the newest CUDA that the driver knows: 13000 for 13.0; 0: no driver
  int runtime;  // the CUDA this program was built with
};

struct GpuInfo {
  int ordinal;
  std::string name;  // "NVIDIA H100 80GB HBM3"
  int capability_major, capability_minor;
  int multiprocessors;
  int64_t memory_bytes;
  std::string pci_bus_id;  // "0000:1b:00.0"
  int numa_node;           // -1: the machine does not say
};

// kUnavailable with one line where there is none: no CUDA in this build, no driver, no GPU.
Result<GpuVersions> CudaVersions();
Result<std::vector<GpuInfo>> Gpus();
// Whether the first can read the second's memory directly.
bool CanAccessPeer(int gpu, int peer);

// The NUMA node of a PCI device, -1 where the machine does not say. sysfs: where it is mounted.
int NumaNodeOfPci(const std::string& pci_bus_id, const std::string& sysfs = "/sys");
// The CPUs of a NUMA node, ascending; empty where there is no such node.
std::vector<int> CpusOfNumaNode(int node, const std::string& sysfs = "/sys");
// The numbers of a list as the kernel writes them: "0-2,8" is 0, 1, 2, 8.
std::vector<int> ParseCpuList(const std::string& list);

// Keeps the calling thread, and threads that it starts, on the CPUs of the node, as far as the
// process may use them. False, and nothing is changed, where it may use none of them.
bool BindThreadToNumaNode(int node, const std::string& sysfs = "/sys");

}  // namespace trireme
