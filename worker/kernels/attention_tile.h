// Inside of the attention kernels: views of one head, scratch memory, and products of tiles.
#pragma once

#include <cstdlib>
#include <memory>

#include "worker/kernels/attention.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gemm.h"

namespace trireme {

// Rows of one head of one sequence.
template <typename T>
T* HeadRow(const Heads& heads, int64_t b, int64_t t, int64_t h) {
  return static_cast<T*>(heads.data) + (b * heads.length + t) * heads.row_stride +
         h * heads.head_dim;
}

// A row-major tile: rows at data + r * stride. Constness is left out: the library takes neither.
struct Tile {
  const void* data;
  DType dtype;
  int64_t stride;
};

template <typename T>
Tile TileOf(const T* data, int64_t stride) {
  return {data, DTypeOf<T>::value, stride};
}

// c[m, n] f32 = op(a) op(b) (+ c).
inline void TileProduct(const Tile& a, bool transpose_a, const Tile& b, bool transpose_b, float* c,
                        int64_t c_stride, int64_t m, int64_t n, int64_t k, bool accumulate) {
  GemmCall call;
  call.a = a.data;
  call.b = b.data;
  call.c = c;
  call.m = m;
  call.n = n;
  call.k = k;
  call.lda = a.stride;
  call.ldb = b.stride;
  call.ldc = c_stride;
  call.input = a.dtype;
  call.transpose_a = transpose_a;
  call.transpose_b = transpose_b;
  call.accumulate = accumulate;
  Gemm(call);
}

// Memory of one thread for one kernel call after the other. Hands out aligned pieces; the next
// Reset takes all back. Not zeroed.
class TileScratch {
 public:
  // Room for `bytes` in all, pieces rounded up to 64 bytes each.
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
    used_ += CeilDivide(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
    CHECK_LE(used_, size_);
    return piece;
  }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  int64_t size_ = 0;
  int64_t used_ = 0;
};

inline TileScratch& ThreadScratch() {
  thread_local TileScratch scratch;
  return scratch;
}

inline void CheckSameHeads(const Heads& a, const Heads& b, const char* name) {
  CHECK(a.dtype == b.dtype) << name << ": " << DTypeName(a.dtype);
  CHECK(a.batch == b.batch && a.length == b.length && a.heads == b.heads &&
        a.head_dim == b.head_dim)
      << name << ": another shape";
}

}  // namespace trireme
