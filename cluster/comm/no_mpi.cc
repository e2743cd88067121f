#include "cluster/comm/communicator.h"

namespace trireme {

Result<std::unique_ptr<CommunicatorFactory>> MpiWorld() {
  return NotBuiltError("MPI: not built yet into this program (configured with TRIREME_MPI=OFF)");
}

}  // namespace trireme
