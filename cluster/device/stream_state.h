// What a stream of a GPU is made of, for the sources of this folder.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "cluster/device/operation_log.h"
#include "cluster/device/stream.h"

namespace trireme {

struct Stream::GpuState {
  int ordinal = 0;
  bool blocking = false;  // each operation waits for the one before
  void* stream = nullptr;
  std::shared_ptr<OperationLog> log = std::make_shared<OperationLog>();
  // Of OperationTimes: each operation's name and an event before it; null when nobody asks.
  std::vector<std::pair<const char*, StreamEvent>>* timeline = nullptr;
};

}  // namespace trireme
