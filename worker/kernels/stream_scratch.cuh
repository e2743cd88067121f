// Device memory for the length of one operation.
#pragma once

#include <cuda_runtime_api.h>

#include "cluster/base/status.h"
#include "cluster/device/device_failure.h"
#include "cluster/device/stream.h"

namespace trireme::gpu {

// Allocated and freed in the stream's order, from the device's pool: the host waits for nothing.
// Not initialised. The process ends with one line when the device has no memory left.
template <typename T>
class StreamScratch {
 public:
  StreamScratch(Stream& stream, int64_t count)
      : stream_(static_cast<cudaStream_t>(stream.native())), count_(count) {
    if (count == 0) return;
    void* memory = nullptr;
    const cudaError_t error = cudaMallocAsync(&memory, count * sizeof(T), stream_);
    if (error != cudaSuccess) {
      EndByDeviceFailure(StrCat("GPU ", stream.gpu(), ": scratch memory of ", count * sizeof(T),
                                " bytes: ", cudaGetErrorString(error)));
    }
    data_ = static_cast<T*>(memory);
  }
  // An error is sticky: the next call on the stream tells it.
  ~StreamScratch() {
    if (data_ != nullptr) cudaFreeAsync(data_, stream_);
  }
  StreamScratch(const StreamScratch&) = delete;
  StreamScratch& operator=(const StreamScratch&) = delete;

  T* data() const { return data_; }
  int64_t count() const { return count_; }
  int64_t bytes() const { return count_ * static_cast<int64_t>(sizeof(T)); }

 private:
  T* data_ = nullptr;
  cudaStream_t stream_;
  int64_t count_;
};

}  // namespace trireme::gpu
