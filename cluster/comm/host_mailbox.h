// HostMailbox: packets between the processes of one host through shared memory, for those that are
// small and in a hurry. A packet is there as soon as its cache line is; MPI is not entered.
//
// Each process has an inbox, with a lane for each process of the job: a ring of slots that one
// process writes and one reads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "cluster/base/status.h"
#include "cluster/comm/shared_memory.h"

namespace trireme {

class HostMailbox {
 public:
  static constexpr int64_t kPacketBytesMax = 248;

  // An inbox for a job of `size` processes. kUnavailable where the kernel gives no such memory.
  static Result<std::unique_ptr<HostMailbox>> Make(int rank, int size);

  // What others open.
  int descriptor() const { return inbox_.descriptor(); }
  // From now on packets are looked for from `peer`, and go to it. kUnavailable when its inbox
  // cannot be opened: then none goes to it, while it may still send.
  Status Connect(int peer, int64_t pid, int descriptor);

  // False, with nothing done, when the packet is too large, the lane full, or the peer not
  // connected: packets then go another way, and may overtake each other.
  bool Send(int peer, std::span<const std::byte> packet);
  // Calls take(source, packet) for packets that have come, at most a lane's worth of each source;
  // true if there was any. A packet is valid during the call.
  bool Receive(const std::function<void(int, std::span<const std::byte>)>& take);

 private:
  struct Lane;
  HostMailbox(int rank, SharedMemory inbox, int size);
  static int64_t BytesOf(int size);
  static Lane& LaneOf(const SharedMemory& inbox, int source);

  const int rank_;
  const SharedMemory inbox_;         // a lane a process of the job
  std::vector<SharedMemory> peers_;  // their inboxes; empty: not connected
  std::vector<int> sources_;         // that may have opened this inbox
  std::vector<uint32_t> sent_;       // by peer
  std::vector<uint32_t> read_;       // by source
};

}  // namespace trireme
