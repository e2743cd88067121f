// Working memory of a kernel on one thread.
#pragma once

#include <glog/logging.h>

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "worker/kernels/dispatch.h"

namespace trireme {

// Memory of one thread for one kernel call after the other. Hands out aligned pieces; the next
// Reset takes all back. Not zeroed.
class ThreadScratch {
 public:
  void Reset(int64_t bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    size_ = CeilDivide(bytes, 4096) * 4096;
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(4096, size_)));
    CHECK(memory_ != nullptr) << "no memory for " << size_ << " bytes of scratch";
  }
  template <typename T>
  T* Take(int64_t count) {
    T* piece = reinterpret_cast<T*>(memory_.get() + used_);
    used_ += Bytes<T>(count);
    CHECK_LE(used_, size_);
    return piece;
  }
  // What Take(count) uses up.
  template <typename T>
  static int64_t Bytes(int64_t count) {
    return CeilDivide(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  int64_t size_ = 0;
  int64_t used_ = 0;
};

}  // namespace trireme
