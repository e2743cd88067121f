// What both directions of attention on a GPU check, and the choice of a kernel by head dim.
#pragma once

#include <type_traits>

#include "worker/kernels/attention.h"

namespace trireme::cuda {

inline constexpr int64_t kHeadDimMax = 256;

inline void CheckSameHeads(const Heads& a, const Heads& b, const char* name) {
  CHECK(a.dtype == b.dtype) << name << ": " << DTypeName(a.dtype);
  CHECK(a.batch == b.batch && a.length == b.length && a.heads == b.heads &&
        a.head_dim == b.head_dim)
      << name << ": another shape";
}

// Queries and keys of one call. Lengths may differ.
inline void CheckAttention(const Heads& q, const Heads& k, const Heads& v, float scale) {
  CheckSameHeads(k, v, "v");
  CHECK(q.dtype == k.dtype) << DTypeName(q.dtype) << " and " << DTypeName(k.dtype);
  CHECK(q.batch == k.batch && q.head_dim == k.head_dim) << "queries and keys differ";
  CHECK(k.heads > 0 && q.heads % k.heads == 0) << q.heads << " query heads, " << k.heads;
  CHECK_GT(scale, 0);
  // Of a CUDA grid.
  CHECK(q.batch <= 65535 && q.heads <= 65535) << q.batch << " sequences, " << q.heads << " heads";
}

inline const int32_t* DocumentStarts(const Tensor& starts, const Heads& q) {
  if (!starts.defined()) return nullptr;
  CHECK_EQ(starts.elements(), q.batch * q.length);
  return starts.as<int32_t>();
}

// Calls body(d), d() being the constant head dim of the kernels that take head_dim.
template <typename Body>
void WithHeadDim(int64_t head_dim, const Body& body) {
  CHECK_LE(head_dim, kHeadDimMax) << "head dims above this have no kernel on a GPU";
  if (head_dim <= 32) {
    body(std::integral_constant<int, 32>());
  } else if (head_dim <= 64) {
    body(std::integral_constant<int, 64>());
  } else if (head_dim <= 128) {
    body(std::integral_constant<int, 128>());
  } else {
    body(std::integral_constant<int, 256>());
  }
}

}  // namespace trireme::cuda
