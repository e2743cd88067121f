// What `trireme doctor` says of GPUs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/device/gpu_info.h"
#include "cluster/launch/device_topology.h"

namespace trireme {

struct GpuReport {
  // Why there is nothing to say: no CUDA in this build, no driver, no GPU.
  Status why_not;
  bool built = false;  // this program has a GPU backend
  GpuVersions versions{};
  std::vector<GpuInfo> gpus;
  std::vector<GpuClocks> clocks;         // of those gpus; empty values where nvidia-smi is silent
  std::vector<std::vector<bool>> peers;  // [gpu][gpu]: direct access
  std::vector<std::vector<NicDistance>> nics;  // of each GPU
  std::string nccl;                            // version and file, or why there is none
  bool has_nccl = false;
  std::string products;   // the libraries of GpuProductLibrary() and GpuAttentionLibrary(), or why
  std::string attention;  // there is none
  bool has_attention = false;
};

GpuReport ReadGpuReport();
// Lines of (name, text), aligned by the caller.
std::vector<std::pair<std::string, std::string>> GpuLines(const GpuReport& report);
nlohmann::ordered_json GpuJson(const GpuReport& report);

}  // namespace trireme
