// trireme doctor: what this machine has for training, what is missing, and what that means.
#include <oneapi/dnnl/dnnl.h>

#include <iostream>
#include <memory>

#include "cli/command.h"
#include "cli/doctor_gpu.h"
#include "cli/run_options.h"
#include "cluster/base/json.h"
#include "cluster/base/version.h"
#include "cluster/launch/host_facts.h"

namespace trireme {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;
constexpr bool kMpiIsBuilt = TRIREME_MPI_BUILT != 0;

// Something worth knowing before a run. A machine without any is ready as it is.
struct Finding {
  bool is_missing = false;  // else a note
  std::string what;
};

std::string Bytes(int64_t bytes) {
  if (bytes >= 1024 * kMiB) {
    return StrCat(bytes / (1024 * kMiB), ".", bytes % (1024 * kMiB) * 10 / (1024 * kMiB), " GiB");
  }
  return StrCat(bytes / kMiB, " MiB");
}

std::string Joined(const std::vector<std::string>& words, const char* separator = " ") {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : separator) + word;
  return text.empty() ? "none" : text;
}

bool Has(const CpuFacts& cpu, std::string_view instruction_set) {
  for (const std::string& name : cpu.instruction_sets) {
    if (name == instruction_set) return true;
  }
  return false;
}

std::string DnnlVersion() {
  const dnnl_version_t* version = dnnl_version();
  return StrCat(version->major, ".", version->minor, ".", version->patch);
}

std::string LimitText(int64_t limit) { return limit < 0 ? "unlimited" : StrCat(limit); }

std::vector<Finding> Findings(const HostFacts& facts, const GpuReport& gpu) {
  std::vector<Finding> findings;
  if (!kMpiIsBuilt) {
    findings.push_back({true,
                        "MPI in this program: it was configured with TRIREME_MPI=OFF and trains "
                        "in one process only"});
  }
  if (facts.mpi.path.empty()) {
    findings.push_back({true,
                        "mpirun: install Open MPI 4.1 or later (Debian: openmpi-bin) to run "
                        "over processes and nodes; `trireme train` alone needs none"});
  } else if (facts.mpi.version.empty()) {
    findings.push_back({false, "mpirun is not Open MPI's: only Open MPI 4.1 or later is tested"});
  }
  if (!facts.gpu.names.empty() && !gpu.why_not.ok()) {
    findings.push_back({true, "GPU support: " + gpu.why_not.message() + "; the GPUs stay idle"});
  }
  if (gpu.gpus.size() > 1 && !gpu.has_nccl) {
    findings.push_back({true, gpu.nccl + ": GPUs exchange data through host memory"});
  }
  if (!gpu.gpus.empty() && !gpu.has_attention) {
    findings.push_back({true, gpu.attention + ": attention runs on the program's own kernel, some "
                                              "ten times slower than cuDNN's"});
  }
  if (!Has(facts.cpu, "avx2") && !Has(facts.cpu, "asimd")) {
    findings.push_back({true, "AVX2: products will be slow on this CPU"});
  }
  if (!Has(facts.cpu, "amx_bf16") && !Has(facts.cpu, "avx512_bf16") && !Has(facts.cpu, "bf16")) {
    findings.push_back({false,
                        "no bfloat16 instructions: precision.compute bfloat16 saves memory "
                        "here, not time"});
  }
  if (facts.cpu.EffectiveThreads() < facts.cpu.hardware_threads) {
    findings.push_back(
        {false, StrCat("only ", facts.cpu.EffectiveThreads(), " of ", facts.cpu.hardware_threads,
                       " hardware threads may be used (affinity or cgroup)")});
  }
  if (facts.memory.shm_total_bytes < 256 * kMiB) {
    findings.push_back({false, StrCat("/dev/shm has ", Bytes(facts.memory.shm_total_bytes),
                                      ": containers have 64 MiB by default; start them with "
                                      "--shm-size=2g")});
  }
  if (facts.limits.open_files >= 0 && facts.limits.open_files < 1024) {
    findings.push_back({false, StrCat("ulimit -n is ", facts.limits.open_files,
                                      ": 1024 or more let the coordinator serve many workers")});
  }
  return findings;
}

Json AsJson(const HostFacts& facts, const GpuReport& gpu) {
  Json networks = Json::array();
  for (const NetworkInterface& net : facts.networks) {
    networks.push_back({{"name", net.name},
                        {"up", net.is_up},
                        {"speed_mbits", net.speed_mbits == 0 ? Json() : Json(net.speed_mbits)},
                        {"address", net.address}});
  }
  Json findings = Json::array();
  for (const Finding& finding : Findings(facts, gpu)) {
    findings.push_back({{"kind", finding.is_missing ? "missing" : "note"}, {"what", finding.what}});
  }
  return {
      {"version", ProgramVersion()},
      {"host", facts.hostname},
      {"distribution", facts.distribution},
      {"kernel", facts.kernel},
      {"cpu",
       {{"model", facts.cpu.model},
        {"cores", facts.cpu.cores},
        {"hardware_threads", facts.cpu.hardware_threads},
        {"usable_threads", facts.cpu.usable_threads},
        {"quota_threads", facts.cpu.quota_threads == 0 ? Json() : Json(facts.cpu.quota_threads)},
        {"effective_threads", facts.cpu.EffectiveThreads()},
        {"numa_nodes", facts.cpu.numa_nodes},
        {"instruction_sets", facts.cpu.instruction_sets}}},
      {"memory",
       {{"total_bytes", facts.memory.total_bytes},
        {"available_bytes", facts.memory.available_bytes},
        {"limit_bytes", facts.memory.limit_bytes == 0 ? Json() : Json(facts.memory.limit_bytes)},
        {"shm_total_bytes", facts.memory.shm_total_bytes},
        {"shm_free_bytes", facts.memory.shm_free_bytes}}},
      {"onednn", DnnlVersion()},
      {"mpi",
       {{"path", facts.mpi.path},
        {"name", facts.mpi.name},
        {"version", facts.mpi.version},
        {"ulfm", facts.mpi.has_ulfm},
        {"built", kMpiIsBuilt},
        {"heals", HealingOf(facts.mpi)}}},
      {"gpus", facts.gpu.names},
      {"cuda_built", gpu.built},
      {"cuda", GpuJson(gpu)},
      {"slurm", {{"version", facts.slurm.version}, {"allocation", facts.slurm.allocation_id}}},
      {"networks", networks},
      {"rdma_devices", facts.rdma_devices},
      {"limits",
       {{"open_files", facts.limits.open_files},
        {"processes", facts.limits.processes},
        {"locked_bytes", facts.limits.locked_bytes}}},
      {"findings", findings}};
}

void Print(const HostFacts& facts, const GpuReport& gpu) {
  const auto line = [](const char* name, const std::string& text) {
    std::string padded = name;
    padded.resize(14, ' ');
    std::cout << padded << text << "\n";
  };
  line("trireme", StrCat(ProgramVersion(), gpu.built ? ", CPU and GPU build" : ", CPU build"));
  line("system", StrCat(facts.distribution, ", Linux ", facts.kernel, ", host ", facts.hostname));
  line("cpu", facts.cpu.model);
  std::string cores =
      StrCat(facts.cpu.cores, " cores, ", facts.cpu.hardware_threads, " hardware threads, ",
             facts.cpu.usable_threads, " in this process's mask, ", facts.cpu.numa_nodes,
             " NUMA node", facts.cpu.numa_nodes == 1 ? "" : "s");
  if (facts.cpu.quota_threads > 0) {
    cores += StrCat(", cgroup gives the time of ", facts.cpu.quota_threads);
  }
  line("cores", cores);
  line("instructions", Joined(facts.cpu.instruction_sets));
  line("memory",
       StrCat(Bytes(facts.memory.total_bytes), ", ", Bytes(facts.memory.available_bytes),
              " available",
              facts.memory.limit_bytes == 0 ? ""
                                            : ", cgroup limit " + Bytes(facts.memory.limit_bytes)));
  line("/dev/shm", StrCat(Bytes(facts.memory.shm_total_bytes), ", ",
                          Bytes(facts.memory.shm_free_bytes), " free"));
  line("products", "oneDNN " + DnnlVersion());
  line("mpi", facts.mpi.path.empty()
                  ? "none"
                  : StrCat(facts.mpi.name, " ", facts.mpi.version, ", ", facts.mpi.path));
  line("  heals", HealingOf(facts.mpi));
  if (!facts.mpi.version.empty()) {
    line("  transport",
         "mpirun --mca btl tcp,self is the conservative choice: a rank killed inside "
         "a shared-memory queue can block its readers");
  }
  if (!gpu.why_not.ok() && !facts.gpu.names.empty()) line("gpus", Joined(facts.gpu.names, "; "));
  for (const auto& [name, text] : GpuLines(gpu)) line(name.c_str(), text);
  line("slurm",
       facts.slurm.version.empty()
           ? "none"
           : StrCat(facts.slurm.version, facts.slurm.allocation_id.empty()
                                             ? ", outside an allocation"
                                             : ", allocation " + facts.slurm.allocation_id));
  for (const NetworkInterface& net : facts.networks) {
    line("network", StrCat(net.name, net.is_up ? " up" : " down",
                           net.speed_mbits > 0 ? StrCat(", ", net.speed_mbits, " Mbit/s") : "",
                           net.address.empty() ? "" : ", " + net.address));
  }
  if (!facts.rdma_devices.empty()) line("rdma", Joined(facts.rdma_devices));
  line("limits", StrCat("open files ", LimitText(facts.limits.open_files), ", processes ",
                        LimitText(facts.limits.processes), ", locked memory ",
                        LimitText(facts.limits.locked_bytes)));
  const std::vector<Finding> findings = Findings(facts, gpu);
  for (const Finding& finding : findings) {
    line(finding.is_missing ? "MISSING" : "note", finding.what);
  }
  if (findings.empty()) line("ready", "nothing is missing");
}

RegisterCommand command({
    "doctor",
    "cores, instruction sets, memory, MPI, GPUs, networks, limits: what is here, what is missing",
    "trireme doctor --json",
    [](CommandLine& line) -> std::function<Status()> {
      auto json = std::make_shared<bool>(false);
      AddJsonOption(line, json.get());
      return [json] {
        const HostFacts facts = ReadHostFacts();
        const GpuReport gpu = ReadGpuReport();
        if (*json) {
          std::cout << DumpJson(AsJson(facts, gpu)) << "\n";
        } else {
          Print(facts, gpu);
        }
        return OkStatus();
      };
    },
});

}  // namespace
}  // namespace trireme
