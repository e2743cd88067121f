// How far apart a GPU and a network card are, from where sysfs has them in its tree.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace trireme {

struct NicDistance {
  std::string nic;  // "mlx5_0", "eth0"
  // "one PCIe switch", "one PCIe root", "one NUMA node", "NUMA nodes 0 and 1, distance 21", or
  // "unknown".
  std::string text;
  int rank = 0;  // 0 is nearest
};

// Cards with a PCI device, RDMA devices first, nearest first. pci_bus_id: "0000:1b:00.0", in any
// case. sysfs: where it is mounted.
std::vector<NicDistance> NicDistances(const std::string& pci_bus_id,
                                      const std::string& sysfs = "/sys");

// What nvidia-smi says of each GPU that CUDA does not.
struct GpuClocks {
  std::string pci_bus_id;
  std::string driver;  // "580.65.06"
  int sm_mhz_max = 0;  // 0: not said
  int memory_mhz_max = 0;
};
// The lines of --query-gpu=pci.bus_id,driver_version,clocks.max.sm,clocks.max.mem
// --format=csv,noheader,nounits.
std::vector<GpuClocks> ParseGpuClocks(std::string_view text);
// Of this machine; empty without nvidia-smi.
std::vector<GpuClocks> ReadGpuClocks();
// What a folder holds, sorted; nothing where there is none.
std::vector<std::string> NamesIn(const std::string& folder);
// "0000:1b:00.0" for "00000000:1B:00.0": sysfs' form.
std::string SysfsPciId(std::string_view id);

}  // namespace trireme
