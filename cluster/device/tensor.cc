#include "cluster/device/tensor.h"

#include <algorithm>

namespace trireme {

Tensor::Tensor(void* data, DType dtype, std::initializer_list<int64_t> dims, DeviceKind device)
    : data_(data), rank_(static_cast<int>(dims.size())), dtype_(dtype), device_(device) {
  CHECK_LE(rank_, kMaxRank);
  std::copy(dims.begin(), dims.end(), dims_.begin());
}

Tensor::Tensor(void* data, DType dtype, const Shape& shape, DeviceKind device)
    : data_(data), rank_(static_cast<int>(shape.size())), dtype_(dtype), device_(device) {
  CHECK_LE(rank_, kMaxRank);
  std::copy(shape.begin(), shape.end(), dims_.begin());
}

int64_t Tensor::elements() const {
  int64_t count = 1;
  for (int i = 0; i < rank_; ++i) count *= dims_[i];
  return count;
}

Tensor Tensor::Rows(int64_t begin, int64_t end) const {
  CHECK_GE(rank_, 1);
  CHECK(0 <= begin && begin <= end && end <= dims_[0]) << begin << ":" << end << " of " << dims_[0];
  Tensor rows = *this;
  int64_t row_elements = 1;
  for (int i = 1; i < rank_; ++i) row_elements *= dims_[i];
  rows.data_ = bytes_data() + begin * row_elements * ByteSize(dtype_);
  rows.dims_[0] = end - begin;
  return rows;
}

Tensor Tensor::View(std::initializer_list<int64_t> dims) const {
  Tensor view(data_, dtype_, dims, device_);
  CHECK_EQ(view.elements(), elements());
  return view;
}

}  // namespace trireme
