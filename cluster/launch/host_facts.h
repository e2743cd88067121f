// What this machine has: cores, instruction sets, memory and its limits, MPI, GPUs, networks.
// Everything is read from /proc, /sys, hwloc and the versions of installed programs; nothing here
// changes anything.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace trireme {

struct CpuFacts {
  std::string model;         // "Intel(R) Xeon(R) ..."
  int cores = 0;             // physical
  int hardware_threads = 0;  // online
  int usable_threads = 0;    // in this process's affinity mask
  double quota_threads = 0;  // cgroup limit of CPU time; 0: none
  int numa_nodes = 0;
  std::vector<std::string> instruction_sets;  // of kKnownInstructionSets, in that order

  // What a run should take as cores: affinity and quota considered, at least 1.
  int EffectiveThreads() const;
};

struct MemoryFacts {
  int64_t total_bytes = 0;
  int64_t available_bytes = 0;
  int64_t limit_bytes = 0;  // cgroup; 0: none
  int64_t shm_total_bytes = 0;
  int64_t shm_free_bytes = 0;
};

struct MpiFacts {
  std::string path;     // of mpirun; empty: there is none
  std::string version;  // "4.1.4"; empty: another MPI
  std::string name;     // "Open MPI", or the first line that mpirun printed
  bool has_ulfm = false;
};

struct GpuFacts {
  bool has_driver = false;         // nvidia-smi is here and answers
  std::vector<std::string> names;  // "NVIDIA H100 80GB HBM3, 81559 MiB"
};

struct NetworkInterface {
  std::string name;
  bool is_up = false;
  int64_t speed_mbits = 0;  // 0: unknown
  std::string address;      // first IPv4 address, or empty
};

struct LimitFacts {
  int64_t open_files = 0;  // -1: none, for all three
  int64_t processes = 0;
  int64_t locked_bytes = 0;
};

struct SlurmFacts {
  std::string version;        // of srun; empty: not here
  std::string allocation_id;  // SLURM_JOB_ID; empty: outside
};

struct HostFacts {
  std::string hostname;
  std::string distribution;  // "Debian GNU/Linux 12 (bookworm)"
  std::string kernel;
  CpuFacts cpu;
  MemoryFacts memory;
  MpiFacts mpi;
  GpuFacts gpu;
  SlurmFacts slurm;
  std::vector<NetworkInterface> networks;
  std::vector<std::string> rdma_devices;
  LimitFacts limits;
};

HostFacts ReadHostFacts();

// The parts that read text, apart from where it comes from.

// The values of the first processor of /proc/cpuinfo.
struct CpuInfo {
  std::string model;
  std::vector<std::string> instruction_sets;
};
CpuInfo ParseCpuInfo(std::string_view text);

// "200000 100000" -> 2; "max 100000" -> 0.
double ParseCgroupCpuMax(std::string_view text);

// Bytes of a line "NAME:  123 kB" of /proc/meminfo; 0 when there is none.
int64_t ParseMemInfo(std::string_view text, std::string_view name);

// The output of `mpirun --version`.
MpiFacts ParseMpiVersion(std::string_view text);

// Which losses a run on this MPI survives in place, in one line, and what heals the others.
std::string HealingOf(const MpiFacts& mpi);

}  // namespace trireme
