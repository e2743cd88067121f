// InputStaging: what the host writes for each pass of a model (token ids, positions, lengths) on
// its way to the device.
#pragma once

#include <cstdint>

#include "cluster/device/buffer.h"
#include "cluster/device/stream.h"

namespace trireme {

// On a CPU nothing moves: the values are written where the model reads them. On a GPU they are
// written to pinned memory, and one copy carries a pass.
class InputStaging {
 public:
  // Where to write the values of `target` (i32), all of them, before Send. On a GPU waits for the
  // copy before, not for what the model makes of it.
  int32_t* Open(const Tensor& target);
  // What was written is in `target` for work that the stream gets from here on.
  void Send(Stream& stream, const Tensor& target);

 private:
  Buffer pinned_;
  StreamEvent sent_;
};

}  // namespace trireme
