// A communicator for memory of GPUs over one for memory of hosts, through pinned buffers: where
// there is no NCCL, and where ranks share a GPU, which NCCL refuses.
#pragma once

#include <memory>

#include "cluster/comm/communicator.h"
#include "cluster/device/stream.h"

namespace trireme {

// Buffers of the operations are memory of the stream's GPU. An operation begins after the work that
// `compute` has when it is called; once it is done (Wait, Test) the host may enqueue work that
// reads the result. Sums are made on the host, in the same order and with the same bits.
//
// `host` must outlive the factory, and groups of the same generation and id must not be made of
// both. `compute` (of the thread that calls the communicators) must outlive them.
std::unique_ptr<CommunicatorFactory> StagedWorld(CommunicatorFactory* host, Stream* compute);

}  // namespace trireme
