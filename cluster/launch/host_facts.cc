#include "cluster/launch/host_facts.h"

#include <arpa/inet.h>
#include <hwloc.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <sstream>

#include "cluster/launch/device_topology.h"

namespace trireme {
namespace {

// Those that decide how fast products are, as /proc/cpuinfo names them (x86, then Arm).
constexpr std::string_view kKnownInstructionSets[] = {
    "avx2",        "fma",      "avx512f",  "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16",    "amx_int8",
    "asimd",       "sve",      "sve2",     "bf16",        "i8mm"};

// The whole file, or what could be read: files of /sys may refuse (the speed of a tunnel).
std::string ReadText(const std::string& path) {
  FILE* file = fopen(path.c_str(), "re");
  if (file == nullptr) return "";
  std::string text;
  char part[4096];
  for (size_t n; (n = fread(part, 1, sizeof(part), file)) > 0;) text.append(part, n);
  fclose(file);
  return text;
}

std::string Trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) return "";
  return std::string(text.substr(begin, text.find_last_not_of(" \t\r\n") - begin + 1));
}

// What `command` prints, or nothing when it fails. `command` is a constant of this file.
std::string OutputOf(const char* command) {
  FILE* pipe = popen(command, "r");
  if (pipe == nullptr) return "";
  std::string text;
  char part[4096];
  for (size_t n; (n = fread(part, 1, sizeof(part), pipe)) > 0;) text.append(part, n);
  return pclose(pipe) == 0 ? text : "";
}

std::string FindProgram(const std::string& name) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path == nullptr ? "" : path);
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string file = folder + "/" + name;
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

// The folders whose limits bind this process: its own control group and all around it. Version 2
// has one hierarchy, version 1 one for each `controller`.
std::vector<std::string> CgroupFolders(const std::string& controller) {
  std::istringstream lines(ReadText("/proc/self/cgroup"));
  std::vector<std::string> folders;
  for (std::string line; std::getline(lines, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string name = line.substr(first + 1, second - first - 1);
    if (!name.empty() && name != controller) continue;
    const std::string root = "/sys/fs/cgroup" + (name.empty() ? "" : "/" + name);
    for (std::filesystem::path path = line.substr(second + 1);; path = path.parent_path()) {
      folders.push_back(root + (path == "/" ? std::string() : path.string()));
      if (path == path.parent_path()) break;
    }
  }
  return folders;
}

// Keeps the smaller of two limits; 0 is none. Version 1 writes "none" as a huge number.
void Tighten(int64_t bytes, int64_t* limit) {
  if (bytes <= 0 || bytes >= int64_t{1} << 60) return;
  if (*limit == 0 || bytes < *limit) *limit = bytes;
}

void ReadTopology(CpuFacts* cpu) {
  hwloc_topology_t topology;
  if (hwloc_topology_init(&topology) != 0) return;
  if (hwloc_topology_load(topology) == 0) {
    cpu->cores = std::max(0, hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE));
    cpu->numa_nodes = std::max(0, hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE));
  }
  hwloc_topology_destroy(topology);
}

CpuFacts ReadCpu() {
  CpuFacts cpu;
  CpuInfo info = ParseCpuInfo(ReadText("/proc/cpuinfo"));
  cpu.model = std::move(info.model);
  cpu.instruction_sets = std::move(info.instruction_sets);
  cpu.hardware_threads = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t set;
  cpu.usable_threads =
      sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : cpu.hardware_threads;
  ReadTopology(&cpu);
  for (const std::string& folder : CgroupFolders("cpu")) {
    std::string limit = ReadText(folder + "/cpu.max");
    if (limit.empty()) {
      limit = Trim(ReadText(folder + "/cpu.cfs_quota_us")) + " " +
              Trim(ReadText(folder + "/cpu.cfs_period_us"));
    }
    const double quota = ParseCgroupCpuMax(limit);
    if (quota > 0 && (cpu.quota_threads == 0 || quota < cpu.quota_threads)) {
      cpu.quota_threads = quota;
    }
  }
  return cpu;
}

MemoryFacts ReadMemory() {
  MemoryFacts memory;
  const std::string text = ReadText("/proc/meminfo");
  memory.total_bytes = ParseMemInfo(text, "MemTotal");
  memory.available_bytes = ParseMemInfo(text, "MemAvailable");
  for (const std::string& folder : CgroupFolders("memory")) {
    for (const char* file : {"/memory.max", "/memory.limit_in_bytes"}) {
      Tighten(std::strtoll(ReadText(folder + file).c_str(), nullptr, 10), &memory.limit_bytes);
    }
  }
  struct statvfs shm;
  if (statvfs("/dev/shm", &shm) == 0) {
    memory.shm_total_bytes = static_cast<int64_t>(shm.f_blocks) * shm.f_frsize;
    memory.shm_free_bytes = static_cast<int64_t>(shm.f_bavail) * shm.f_frsize;
  }
  return memory;
}

MpiFacts ReadMpi() {
  const std::string path = FindProgram("mpirun");
  if (path.empty()) return {};
  MpiFacts mpi = ParseMpiVersion(OutputOf("mpirun --version 2>/dev/null"));
  mpi.path = path;
  // Open MPI 5 says in its parameters whether it was built with fault tolerance.
  mpi.has_ulfm =
      !mpi.version.empty() && mpi.version[0] >= '5' &&
      OutputOf("ompi_info --parsable 2>/dev/null").find("ft:extensions:yes") != std::string::npos;
  return mpi;
}

GpuFacts ReadGpus() {
  GpuFacts gpu;
  if (FindProgram("nvidia-smi").empty()) return gpu;
  std::istringstream lines(
      OutputOf("nvidia-smi --query-gpu=name,memory.total --format=csv,noheader 2>/dev/null"));
  for (std::string line; std::getline(lines, line);) {
    if (!Trim(line).empty()) gpu.names.push_back(Trim(line));
  }
  gpu.has_driver = !gpu.names.empty();
  return gpu;
}

SlurmFacts ReadSlurm() {
  SlurmFacts slurm;
  if (!FindProgram("srun").empty()) {
    const std::string text = Trim(OutputOf("srun --version 2>/dev/null"));  // "slurm 22.05.8"
    slurm.version = text.substr(text.find(' ') + 1);
  }
  const char* job = std::getenv("SLURM_JOB_ID");
  if (job != nullptr) slurm.allocation_id = job;
  return slurm;
}

std::vector<NetworkInterface> ReadNetworks() {
  std::vector<NetworkInterface> networks;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return networks;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    const std::string name = entry->ifa_name;
    auto found = std::find_if(networks.begin(), networks.end(),
                              [&](const NetworkInterface& known) { return known.name == name; });
    if (found == networks.end()) {
      const std::string speed = Trim(ReadText("/sys/class/net/" + name + "/speed"));
      networks.push_back({name, (entry->ifa_flags & IFF_RUNNING) != 0,
                          std::max<int64_t>(0, std::strtoll(speed.c_str(), nullptr, 10)), ""});
      found = std::prev(networks.end());
    }
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN] = {};
    const auto* address = reinterpret_cast<const sockaddr_in*>(entry->ifa_addr);
    inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text));
    if (found->address.empty()) found->address = text;
  }
  freeifaddrs(list);
  return networks;
}

int64_t Limit(int resource) {
  rlimit limit;
  if (getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) != 0) return 0;
  return limit.rlim_cur == RLIM_INFINITY ? -1 : static_cast<int64_t>(limit.rlim_cur);
}

std::string ReadDistribution() {
  std::istringstream lines(ReadText("/etc/os-release"));
  for (std::string line; std::getline(lines, line);) {
    constexpr std::string_view kName = "PRETTY_NAME=";
    if (!line.starts_with(kName)) continue;
    line.erase(0, kName.size());
    line.erase(std::remove(line.begin(), line.end(), '"'), line.end());
    return line;
  }
  return "unknown";
}

}  // namespace

int CpuFacts::EffectiveThreads() const {
  int threads = std::max(1, usable_threads);
  if (quota_threads > 0) {
    threads = std::min(threads, std::max(1, static_cast<int>(std::floor(quota_threads))));
  }
  return threads;
}

CpuInfo ParseCpuInfo(std::string_view text) {
  CpuInfo info;
  std::istringstream lines{std::string(text)};
  std::vector<std::string> flags;
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const std::string name = Trim(line.substr(0, colon));
    const std::string value = Trim(line.substr(colon + 1));
    if (name == "model name" && info.model.empty()) info.model = value;
    if ((name == "flags" || name == "Features") && flags.empty()) {
      std::istringstream words(value);
      for (std::string word; words >> word;) flags.push_back(word);
    }
  }
  for (const std::string_view known : kKnownInstructionSets) {
    if (std::find(flags.begin(), flags.end(), known) != flags.end()) {
      info.instruction_sets.emplace_back(known);
    }
  }
  return info;
}

double ParseCgroupCpuMax(std::string_view text) {
  std::istringstream in{std::string(text)};
  double quota = 0, period = 0;
  if (!(in >> quota >> period) || quota <= 0 || period <= 0) return 0;
  return quota / period;
}

int64_t ParseMemInfo(std::string_view text, std::string_view name) {
  std::istringstream lines{std::string(text)};
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name) || line.size() <= name.size() || line[name.size()] != ':') continue;
    return std::strtoll(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
  }
  return 0;
}

MpiFacts ParseMpiVersion(std::string_view text) {
  MpiFacts mpi;
  const std::string first = Trim(text.substr(0, text.find('\n')));
  constexpr std::string_view kOpenMpi = "mpirun (Open MPI) ";
  if (first.starts_with(kOpenMpi)) {
    mpi.name = "Open MPI";
    mpi.version = first.substr(kOpenMpi.size());
  } else {
    mpi.name = first;
  }
  return mpi;
}

std::string HealingOf(const MpiFacts& mpi) {
  if (mpi.name.empty()) {
    return "no mpirun: one process with threads works; a lost process ends the run, which resumes "
           "from its last checkpoint";
  }
  if (mpi.version.empty()) {
    return "not Open MPI: a lost rank ends the job, which resumes from its last checkpoint";
  }
  if (mpi.version.starts_with("4.")) {
    return "with mpirun --enable-recovery the other ranks live on when a rank, a daemon, a node or "
           "a link is lost";
  }
  if (mpi.has_ulfm) {
    return "with mpirun --with-ft ulfm the other ranks live on when a rank is lost; the loss of a "
           "daemon or a node ends the job";
  }
  return "without fault tolerance (ULFM) a lost rank ends the job, which resumes from its last "
         "checkpoint";
}

HostFacts ReadHostFacts() {
  HostFacts facts;
  utsname system;
  if (uname(&system) == 0) {
    facts.hostname = system.nodename;
    facts.kernel = system.release;
  }
  facts.distribution = ReadDistribution();
  facts.cpu = ReadCpu();
  facts.memory = ReadMemory();
  facts.mpi = ReadMpi();
  facts.gpu = ReadGpus();
  facts.slurm = ReadSlurm();
  facts.networks = ReadNetworks();
  facts.rdma_devices = NamesIn("/sys/class/infiniband");
  facts.limits = {Limit(RLIMIT_NOFILE), Limit(RLIMIT_NPROC), Limit(RLIMIT_MEMLOCK)};
  return facts;
}

}  // namespace trireme
