#include "cluster/launch/device_topology.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "cluster/base/status.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

struct Place {
  std::vector<std::string> path;  // from the PCI root to the device: "pci0000:16", bridges, device
  int numa = -1;
};

int ReadInt(const fs::path& file, int otherwise) {
  std::ifstream in(file);
  int value = otherwise;
  return in >> value ? value : otherwise;
}

// Where the device that `link` leads to stands; an empty path when it is none of PCI's.
Place PlaceOf(const fs::path& link) {
  std::error_code error;
  const fs::path device = fs::canonical(link, error);
  Place place;
  if (error) return place;
  bool inside = false;
  for (const fs::path& part : device) {
    inside = inside || part.string().starts_with("pci");
    if (inside) place.path.push_back(part.string());
  }
  place.numa = ReadInt(device / "numa_node", -1);
  return place;
}

// The distance that the firmware gives: 10 is the node itself.
int NumaDistance(int from, int to, const std::string& sysfs) {
  std::ifstream in(StrCat(sysfs, "/devices/system/node/node", from, "/distance"));
  int value = 0;
  for (int node = 0; in >> value; ++node) {
    if (node == to) return value;
  }
  return 0;
}

NicDistance Between(const std::string& nic, const Place& gpu, const Place& card,
                    const std::string& sysfs) {
  size_t common = 0;
  while (common < gpu.path.size() && common < card.path.size() &&
         gpu.path[common] == card.path[common]) {
    ++common;
  }
  // The root, and its port, is common to what is behind one switch.
  if (common >= 2) return {nic, "one PCIe switch", 0};
  if (common == 1) return {nic, "one PCIe root", 1};
  if (gpu.numa < 0 || card.numa < 0) return {nic, "unknown", 4};
  if (gpu.numa == card.numa) return {nic, "one NUMA node", 2};
  std::string text = StrCat("NUMA nodes ", gpu.numa, " and ", card.numa);
  const int distance = NumaDistance(gpu.numa, card.numa, sysfs);
  if (distance > 0) text += StrCat(", distance ", distance);
  return {nic, text, 3};
}

}  // namespace

std::vector<std::string> NamesIn(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string SysfsPciId(std::string_view id) {
  std::string text(id);
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const size_t domain = text.find(':');
  if (domain != std::string::npos && domain > 4) text.erase(0, domain - 4);
  return text;
}

std::vector<NicDistance> NicDistances(const std::string& pci_bus_id, const std::string& sysfs) {
  const Place gpu = PlaceOf(fs::path(sysfs) / "bus/pci/devices" / SysfsPciId(pci_bus_id));
  std::vector<NicDistance> distances;
  for (const char* kind : {"infiniband", "net"}) {
    const fs::path folder = fs::path(sysfs) / "class" / kind;
    for (const std::string& nic : NamesIn(folder)) {
      const Place card = PlaceOf(folder / nic / "device");
      if (!card.path.empty()) distances.push_back(Between(nic, gpu, card, sysfs));
    }
  }
  std::stable_sort(distances.begin(), distances.end(),
                   [](const NicDistance& a, const NicDistance& b) { return a.rank < b.rank; });
  return distances;
}

std::vector<GpuClocks> ParseGpuClocks(std::string_view text) {
  std::vector<GpuClocks> gpus;
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> fields;
    std::istringstream words(line);
    for (std::string field; std::getline(words, field, ',');) {
      const size_t begin = field.find_first_not_of(' ');
      fields.push_back(begin == std::string::npos ? "" : field.substr(begin));
    }
    if (fields.size() != 4) continue;
    gpus.push_back({SysfsPciId(fields[0]), fields[1], std::atoi(fields[2].c_str()),
                    std::atoi(fields[3].c_str())});
  }
  return gpus;
}

std::vector<GpuClocks> ReadGpuClocks() {
  FILE* pipe = popen(
      "nvidia-smi --query-gpu=pci.bus_id,driver_version,clocks.max.sm,clocks.max.mem "
      "--format=csv,noheader,nounits 2>/dev/null",
      "r");
  if (pipe == nullptr) return {};
  std::string text;
  char part[4096];
  for (size_t n; (n = fread(part, 1, sizeof(part), pipe)) > 0;) text.append(part, n);
  return pclose(pipe) == 0 ? ParseGpuClocks(text) : std::vector<GpuClocks>{};
}

}  // namespace trireme
