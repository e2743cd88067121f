// Tensors of a test on the device of a stream, and back.
#pragma once

#include "cluster/device/buffer.h"
#include "cluster/device/stream.h"
#include "tests/worker_kernels/kernel_testing.h"

namespace trireme {

// A copy of a host's tensor on the GPU. `offset` elements lie before it, so that it need not be
// aligned.
class OnGpu {
 public:
  OnGpu(Stream& stream, const Owned& content, int64_t offset = 0)
      : stream_(&stream), shape_(content.view().shape()), dtype_(content.view().dtype()) {
    const Tensor host = content.view();
    offset_bytes_ = offset * ByteSize(dtype_);
    buffer_ = Buffer(offset_bytes_ + host.bytes(), stream.device());
    if (host.bytes() == 0) return;
    stream.Copy(view().data(), host.data(), host.bytes());
    stream.Synchronize();
  }
  // Of zeros.
  OnGpu(Stream& stream, DType dtype, const Shape& shape) : OnGpu(stream, Owned(dtype, shape)) {}

  Tensor view() const {
    return Tensor(buffer_.data() + offset_bytes_, dtype_, shape_, buffer_.device());
  }
  operator Tensor() const { return view(); }  // NOLINT: implicit on purpose
  template <typename T>
  T* as() const {
    return view().as<T>();
  }
  // Waits for the stream.
  Owned Read() const {
    Owned content(dtype_, shape_);
    stream_->Copy(content.view().data(), view().data(), content.view().bytes());
    stream_->Synchronize();
    return content;
  }

 private:
  Stream* stream_;
  Shape shape_;
  DType dtype_;
  int64_t offset_bytes_ = 0;
  Buffer buffer_;
};

}  // namespace trireme
