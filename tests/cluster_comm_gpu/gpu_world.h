// Ranks with a GPU each, or all on one, and communicators for its memory as they are.
#pragma once

#include <functional>

#include "cluster/comm/communicator.h"
#include "cluster/device/stream.h"

namespace trireme {

// body(factory of the rank, its stream) on a thread of each rank; provided by the world that a
// program links.
void OnEveryGpuRank(int ranks, const std::function<void(CommunicatorFactory&, Stream&)>& body);
// Whether operations wait for peers on the GPU; else on the host.
bool PeersMeetOnTheGpu();

}  // namespace trireme
