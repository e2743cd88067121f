#include "cluster/comm/tree_adder.h"

#include <glog/logging.h>

#include <algorithm>
#include <cstring>

#include "cluster/device/elementwise.h"

namespace trireme {
namespace {

void AddBFloat16(BFloat16* out, const BFloat16* a, const BFloat16* b, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = ToBFloat16(ToFloat(a[i]) + ToFloat(b[i]));
}

template <typename T>
void AddTyped(std::byte* out, const std::byte* a, const std::byte* b, int64_t n) {
  AddSerial(reinterpret_cast<T*>(out), reinterpret_cast<const T*>(a), reinterpret_cast<const T*>(b),
            n);
}

}  // namespace

bool TreeAdder::Supports(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF64 ||
         dtype == DType::kI64;
}

TreeAdder::TreeAdder(const SumTree& tree, DType dtype)
    : dtype_(dtype), element_bytes_(ByteSize(dtype)) {
  CHECK(Supports(dtype)) << "sums are of float32, bfloat16, float64 or int64, not "
                         << DTypeName(dtype);
  const auto contributions = tree.Contributions();
  inputs_ = static_cast<int>(contributions.size());
  Build(contributions, {0, tree.leaves()});
  scratch_.resize(temporaries_ * kBlock * element_bytes_);
  slots_.resize(inputs_ + temporaries_);
}

// Appends the steps of the subtree at `node`; returns the slot that then holds its sum.
int TreeAdder::Build(const std::vector<SumTree::Contribution>& contributions, SumTree::Node node) {
  for (int c = 0; c < inputs_; ++c) {
    if (contributions[c].node == node) return c;
  }
  const int left = Build(contributions, SumTree::Left(node));
  const int right = Build(contributions, SumTree::Right(node));
  // The left child's temporary is written again: element-wise adds may work in place.
  for (int slot : {left, right}) {
    if (slot >= inputs_) free_.push_back(slot);
  }
  if (free_.empty()) free_.push_back(inputs_ + temporaries_++);
  const int out = free_.back();
  free_.pop_back();
  steps_.push_back({left, right, out});
  return out;
}

void TreeAdder::AddBlock(const std::byte* a, const std::byte* b, std::byte* out,
                         int64_t count) const {
  switch (dtype_) {
    case DType::kF32:
      return AddTyped<float>(out, a, b, count);
    case DType::kF64:
      return AddTyped<double>(out, a, b, count);
    case DType::kI64:
      return AddTyped<int64_t>(out, a, b, count);
    default:
      return AddBFloat16(reinterpret_cast<BFloat16*>(out), reinterpret_cast<const BFloat16*>(a),
                         reinterpret_cast<const BFloat16*>(b), count);
  }
}

void TreeAdder::Add(const std::byte* const* inputs, std::byte* out, int64_t count) {
  if (steps_.empty()) {
    if (out != inputs[0]) std::memcpy(out, inputs[0], count * element_bytes_);
    return;
  }
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const int64_t offset = begin * element_bytes_;
    for (int c = 0; c < inputs_; ++c) slots_[c] = inputs[c] + offset;
    for (int t = 0; t < temporaries_; ++t) {
      slots_[inputs_ + t] = scratch_.data() + t * kBlock * element_bytes_;
    }
    // Only the last step writes `out`: it may be an input that an earlier step still reads.
    for (size_t s = 0; s < steps_.size(); ++s) {
      const Step& step = steps_[s];
      std::byte* target = s + 1 == steps_.size()
                              ? out + offset
                              : scratch_.data() + (step.out - inputs_) * kBlock * element_bytes_;
      AddBlock(slots_[step.left], slots_[step.right], target, n);
    }
  }
}

}  // namespace trireme
