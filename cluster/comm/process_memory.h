// Reading the memory of another process of this host (Linux cross-memory attach).
#pragma once

#include <cstddef>
#include <cstdint>

#include "cluster/base/status.h"
#include "cluster/comm/message_transport.h"

namespace trireme {

// Who a process is, for others to read from it. Plain bytes: sent as it is.
struct ProcessIdentity {
  uint64_t host = 0;  // equal where processes may read each other: boot, process and net namespace
  int64_t pid = 0;
  uint64_t cookie_address = 0;  // where `cookie` lies in that process
  uint64_t cookie = 0;
  int32_t mailbox = -1;  // the descriptor of its HostMailbox
  int32_t staging = -1;  // of its StagingArea
};

ProcessIdentity MyProcessIdentity();

// Copies [begin, end) of the stream `remote`, whose addresses are those of `process`, to `target`.
// kUnavailable when the process is gone, has become another one, or may not be read.
// check: also read its cookie, for a pid may have passed to another process. It costs as much as
// some ten kilobytes, and pids come round again in minutes, not in milliseconds.
Status ReadProcessMemory(const ProcessIdentity& process, const StreamLayout& remote, int64_t begin,
                         int64_t end, std::byte* target, bool check);

}  // namespace trireme
