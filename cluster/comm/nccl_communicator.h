// Communicators for memory of GPUs over NCCL, one rank a GPU.
#pragma once

#include <memory>

#include "cluster/base/clock.h"
#include "cluster/comm/communicator.h"
#include "cluster/device/stream.h"

namespace trireme {

struct NcclOptions {
  // Off: sums have the order of their SumTree, and so the same bits as on any other transport. On:
  // NCCL's own reductions, whose order of sums depends on the number of ranks and the topology.
  bool fast_sums = false;
  // How long an abort may take, and the last messages of a communicator that is done with.
  Micros abort_patience = 10'000'000;
};

// Buffers of the operations are memory of the stream's GPU; the same rules as for StagedWorld
// (staged_communicator.h) hold. `host` connects the ranks: unique ids, small messages, barriers and
// the words of who waits for whom travel by it, under the generation of the group. Its groups use
// the ids of the NCCL groups, and those with the highest bit set: ids must be below 32768.
//
// Non-blocking: no call of the communicators waits for a peer or for the GPU. Revoke aborts NCCL
// from a thread of its own; when that does not come back within abort_patience, later operations of
// this process end with kUnavailable, saying that the process has to be replaced.
//
// kUnavailable with one line where NCCL cannot be loaded, kInvalidArgument for a CPU stream.
Result<std::unique_ptr<CommunicatorFactory>> NcclWorld(CommunicatorFactory* host, Stream* compute,
                                                       const NcclOptions& options = {});

// "2.28.9 (libnccl.so.2)", or why there is none: for `trireme doctor`.
Result<std::string> NcclDescription();

}  // namespace trireme
