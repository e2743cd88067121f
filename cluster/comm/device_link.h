// What the communicators for memory of GPUs ask of a device, for streams of either kind: on a CPU
// everything is done when it is enqueued, and tests run the same code there.
#pragma once

#include <memory>

#include "cluster/device/buffer.h"
#include "cluster/device/stream.h"

namespace trireme {

// A stream of its own on the device of `compute`.
std::shared_ptr<Stream> SideStream(const Stream& compute);
// Memory of the device of `compute`.
Buffer DeviceMemory(const Stream& compute, int64_t bytes);
// Host memory that the device of `compute` copies to and from without staging.
Buffer PinnedMemory(const Stream& compute, int64_t bytes);

}  // namespace trireme
