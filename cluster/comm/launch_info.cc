#include <charconv>
#include <cstdlib>
#include <string_view>

#include "cluster/comm/communicator.h"

namespace trireme {
namespace {

// The number in an environment variable, or -1.
int NumberInEnvironment(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return -1;
  const std::string_view view(text);
  int value = -1;
  const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
  return error == std::errc() && end == view.data() + view.size() ? value : -1;
}

}  // namespace

LaunchInfo DetectLaunch() {
  // mpirun of Open MPI sets both; srun sets SLURM_* for one task as well, which is no launch of
  // several, and a shell inside an allocation has SLURM_NTASKS without a step of its own.
  const int mpirun_rank = NumberInEnvironment("OMPI_COMM_WORLD_RANK");
  const int mpirun_size = NumberInEnvironment("OMPI_COMM_WORLD_SIZE");
  if (mpirun_rank >= 0 && mpirun_size >= 1) return {true, mpirun_rank, mpirun_size};
  const int slurm_rank = NumberInEnvironment("SLURM_PROCID");
  const int slurm_size = NumberInEnvironment("SLURM_STEP_NUM_TASKS") >= 1
                             ? NumberInEnvironment("SLURM_STEP_NUM_TASKS")
                             : NumberInEnvironment("SLURM_NTASKS");
  if (slurm_rank >= 0 && slurm_size > 1) return {true, slurm_rank, slurm_size};
  const int pmix_rank = NumberInEnvironment("PMIX_RANK");
  const int pmix_size = NumberInEnvironment("PMIX_SIZE");
  if (pmix_rank >= 0 && pmix_size > 1) return {true, pmix_rank, pmix_size};
  return {};
}

}  // namespace trireme
