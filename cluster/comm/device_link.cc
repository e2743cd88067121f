#include "cluster/comm/device_link.h"

namespace trireme {

std::shared_ptr<Stream> SideStream(const Stream& compute) {
  // First: a bucket's few blocks do not wait behind all of a large product's.
  if (compute.device() == DeviceKind::kCuda) {
    return std::make_shared<Stream>(Gpu{compute.gpu()}, StreamPriority::kFirst);
  }
  return std::make_shared<Stream>(1);
}

Buffer DeviceMemory(const Stream& compute, int64_t bytes) {
  (void)compute.native();  // memory is made on the calling thread's GPU
  return Buffer(bytes, compute.device(), "communication");
}

Buffer PinnedMemory(const Stream& compute, int64_t bytes) {
  (void)compute.native();
  return compute.device() == DeviceKind::kCuda ? Buffer::Pinned(bytes, "communication")
                                               : Buffer(bytes);
}

}  // namespace trireme
