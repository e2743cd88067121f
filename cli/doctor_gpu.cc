#include "cli/doctor_gpu.h"

#include "cluster/base/json.h"
#include "cluster/comm/nccl_communicator.h"
#include "worker/kernels/gpu_libraries.h"

namespace trireme {
namespace {

// 13000 is 13.0.
std::string CudaVersionText(int version) {
  return version == 0 ? "none" : StrCat(version / 1000, ".", version % 1000 / 10);
}

}  // namespace

GpuReport ReadGpuReport() {
  GpuReport report;
  const auto nccl = NcclDescription();
  report.has_nccl = nccl.ok();
  report.nccl = nccl.ok() ? *nccl : nccl.status().message();
  const auto products = GpuProductLibrary(), attention = GpuAttentionLibrary();
  report.products = products.ok() ? *products : products.status().message();
  report.attention = attention.ok() ? *attention : attention.status().message();
  report.has_attention = attention.ok();
  const auto versions = CudaVersions();
  report.why_not = versions.status();
  report.built = versions.status().code() != StatusCode::kNotBuilt;
  if (!versions.ok()) return report;
  report.versions = *versions;
  auto gpus = Gpus();
  report.why_not = gpus.status();
  if (!gpus.ok()) return report;
  report.gpus = *gpus;
  const std::vector<GpuClocks> all = ReadGpuClocks();
  for (const GpuInfo& gpu : report.gpus) {
    GpuClocks clocks;
    for (const GpuClocks& each : all) {
      if (each.pci_bus_id == SysfsPciId(gpu.pci_bus_id)) clocks = each;
    }
    report.clocks.push_back(clocks);
    std::vector<bool> row;
    for (const GpuInfo& peer : report.gpus) {
      row.push_back(peer.ordinal == gpu.ordinal || CanAccessPeer(gpu.ordinal, peer.ordinal));
    }
    report.peers.push_back(std::move(row));
    report.nics.push_back(NicDistances(gpu.pci_bus_id));
  }
  return report;
}

std::vector<std::pair<std::string, std::string>> GpuLines(const GpuReport& report) {
  std::vector<std::pair<std::string, std::string>> lines;
  if (!report.why_not.ok()) {
    lines.push_back({"gpus", "none: " + report.why_not.message()});
  } else {
    std::string cuda = StrCat("toolkit ", CudaVersionText(report.versions.runtime),
                              ", driver knows ", CudaVersionText(report.versions.driver));
    if (!report.clocks[0].driver.empty()) cuda += StrCat(" (", report.clocks[0].driver, ")");
    lines.push_back({"cuda", cuda});
  }
  for (size_t g = 0; g < report.gpus.size(); ++g) {
    const GpuInfo& gpu = report.gpus[g];
    std::string text = StrCat(gpu.ordinal, ": ", gpu.name, ", ", gpu.memory_bytes >> 20,
                              " MiB, capability ", gpu.capability_major, ".", gpu.capability_minor,
                              ", ", gpu.multiprocessors, " multiprocessors, ", gpu.pci_bus_id);
    if (report.clocks[g].sm_mhz_max > 0) {
      text += StrCat(", clocks up to ", report.clocks[g].sm_mhz_max, " MHz, memory ",
                     report.clocks[g].memory_mhz_max, " MHz");
    }
    if (gpu.numa_node >= 0) text += StrCat(", NUMA node ", gpu.numa_node);
    lines.push_back({"gpu", text});
    std::string peers;
    for (size_t p = 0; p < report.gpus.size(); ++p) {
      if (p != g && report.peers[g][p]) peers += StrCat(peers.empty() ? "" : " ", p);
    }
    if (report.gpus.size() > 1) {
      lines.push_back({"  peers", peers.empty() ? "none that it reads directly" : peers});
    }
    for (const NicDistance& nic : report.nics[g]) {
      lines.push_back({"  nic", StrCat(nic.nic, ": ", nic.text)});
    }
  }
  if (report.built) {
    lines.push_back({"products", report.products});
    lines.push_back({"attention", report.attention});
  }
  lines.push_back({"nccl", report.nccl});
  return lines;
}

Json GpuJson(const GpuReport& report) {
  Json gpus = Json::array();
  for (size_t g = 0; g < report.gpus.size(); ++g) {
    const GpuInfo& gpu = report.gpus[g];
    const GpuClocks& clocks = report.clocks[g];
    Json nics = Json::array();
    for (const NicDistance& nic : report.nics[g]) {
      nics.push_back({{"name", nic.nic}, {"distance", nic.text}});
    }
    gpus.push_back(
        {{"ordinal", gpu.ordinal},
         {"name", gpu.name},
         {"memory_bytes", gpu.memory_bytes},
         {"capability", StrCat(gpu.capability_major, ".", gpu.capability_minor)},
         {"multiprocessors", gpu.multiprocessors},
         {"pci_bus_id", gpu.pci_bus_id},
         {"numa_node", gpu.numa_node < 0 ? Json() : Json(gpu.numa_node)},
         {"sm_mhz_max", clocks.sm_mhz_max == 0 ? Json() : Json(clocks.sm_mhz_max)},
         {"memory_mhz_max", clocks.memory_mhz_max == 0 ? Json() : Json(clocks.memory_mhz_max)},
         {"driver", clocks.driver},
         {"peers", report.peers[g]},
         {"nics", nics}});
  }
  return {
      {"built", report.built},
      {"why_not", report.why_not.ok() ? Json() : Json(report.why_not.message())},
      {"toolkit", report.why_not.ok() ? Json(CudaVersionText(report.versions.runtime)) : Json()},
      {"driver_cuda", report.why_not.ok() ? Json(CudaVersionText(report.versions.driver)) : Json()},
      {"gpus", gpus},
      {"products", report.products},
      {"attention", report.attention},
      {"has_attention", report.has_attention},
      {"nccl", report.nccl},
      {"has_nccl", report.has_nccl}};
}

}  // namespace trireme
