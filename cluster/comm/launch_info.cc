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
  const struct {
    const char* rank;
    const char* size;
    int size_min;
  } launchers[] = {
      {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", 1},  // mpirun of Open MPI
      // srun. A step of one task is no launch of several; and the shell of a batch script has
      // SLURM_PROCID and SLURM_NTASKS too, but not the tasks of a step.
      {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", 2},
      {"PMIX_RANK", "PMIX_SIZE", 2},
  };
  for (const auto& launcher : launchers) {
    const int rank = NumberInEnvironment(launcher.rank);
    const int size = NumberInEnvironment(launcher.size);
    if (rank >= 0 && size >= launcher.size_min && rank < size) return {true, rank, size};
  }
  return {};
}

}  // namespace trireme
