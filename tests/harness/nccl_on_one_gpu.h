// The real NCCL with several ranks on one GPU: each is a thread with a copy of the library that
// takes itself for a host of its own (NCCL_HOSTID), so that data goes through NCCL's network over
// loopback. It shows the protocol, not the speed. Programs that link this never free memory of the
// GPU and pinned memory: freeing waits for all kernels, one rank's for another's, which waits for a
// message of the first. With a GPU a rank nothing of the kind can happen.
#pragma once

#include "cluster/comm/nccl_api.h"

namespace trireme {

inline constexpr int kNcclRanksMax = 4;

// The copy of rank `rank`. The first call loads all; a library that is missing ends the program.
const nccl::Api* NcclOfRank(int rank);

}  // namespace trireme
