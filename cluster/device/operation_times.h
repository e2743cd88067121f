// How long the operations of a GPU's stream take, by their names: which kernels a step is made of.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/device/stream.h"

namespace trireme {

// While it lives, an event is recorded before each operation of the stream; a name's time is what
// lies between its events and the next ones, so waiting of the GPU for the host counts too. Costs a
// few microseconds an operation. On a CPU's stream it stays empty.
class OperationTimes {
 public:
  struct Share {
    std::string operation;  // "MatMul"
    int64_t calls = 0;
    double milliseconds = 0;
  };

  // The stream must outlive this; one at a time.
  explicit OperationTimes(Stream* stream);
  ~OperationTimes();
  OperationTimes(const OperationTimes&) = delete;
  OperationTimes& operator=(const OperationTimes&) = delete;

  // What was done since the beginning or the last call, longest first. Waits for the stream.
  std::vector<Share> Take();

 private:
  Stream* stream_;
  std::vector<std::pair<const char*, StreamEvent>> timeline_;
};

}  // namespace trireme
