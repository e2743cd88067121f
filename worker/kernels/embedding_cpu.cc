#include <algorithm>
#include <cstring>

#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/embedding.h"
#include "worker/kernels/vector.h"

namespace trireme {
namespace {

template <typename T>
void AddRow(float* target, const T* source, int64_t h) {
  ForLanes(h, [&](int64_t i, auto count) {
    Store(target + i, Load(target + i, count) + Load(source + i, count), count);
  });
}

}  // namespace

void EmbeddingForward(Stream& stream, const Tensor& ids, const Tensor& table, int64_t first_row,
                      const Tensor& y) {
  if (stream.OnGpu("EmbeddingForward")) {
    return cuda::EmbeddingForward(stream, ids, table, first_row, y);
  }
  const int64_t hidden = table.dim(1), rows = table.dim(0);
  CHECK_EQ(y.elements(), ids.elements() * hidden);
  const int32_t* id = ids.as<int32_t>();
  WithFloatTypes(table.dtype(), y.dtype(), [&](auto* in, auto* out) {
    const auto* source = table.as<std::remove_pointer_t<decltype(in)>>();
    auto* target = y.as<std::remove_pointer_t<decltype(out)>>();
    RowBlocks<64>(stream, ids.elements(), [&](int64_t n) {
      auto* row = target + n * hidden;
      const int64_t r = id[n] - first_row;
      if (r < 0 || r >= rows) {
        std::memset(row, 0, hidden * sizeof(*row));
        return;
      }
      ForLanes(hidden, [&](int64_t i, auto count) {
        Store(row + i, Load(source + r * hidden + i, count), count);
      });
    });
  });
}

void EmbeddingBackward(Stream& stream, const Tensor& ids, const Tensor& dy, int64_t first_row,
                       const Tensor& dtable, bool accumulate) {
  if (stream.OnGpu("EmbeddingBackward")) {
    return cuda::EmbeddingBackward(stream, ids, dy, first_row, dtable, accumulate);
  }
  const int64_t hidden = dtable.dim(1), rows = dtable.dim(0);
  CHECK_EQ(dy.elements(), ids.elements() * hidden);
  const int32_t* id = ids.as<int32_t>();
  float* table = dtable.as<float>();
  // A block owns a stripe of columns and walks the tokens in order.
  constexpr int64_t kColumns = 64;
  WithFloatType(dy.dtype(), [&](auto* type) {
    const auto* source = dy.as<std::remove_pointer_t<decltype(type)>>();
    stream.ParallelFor(CeilDivide(hidden, kColumns), [&](int64_t block) {
      const int64_t begin = block * kColumns, columns = std::min(kColumns, hidden - begin);
      if (!accumulate) {
        for (int64_t r = 0; r < rows; ++r) {
          std::memset(table + r * hidden + begin, 0, columns * sizeof(float));
        }
      }
      for (int64_t n = 0; n < ids.elements(); ++n) {
        const int64_t r = id[n] - first_row;
        if (r < 0 || r >= rows) continue;
        AddRow(table + r * hidden + begin, source + n * hidden + begin, columns);
      }
    });
  });
}

void PositionEmbeddingForward(Stream& stream, const Tensor& positions, const Tensor& table,
                              const Tensor& y) {
  if (stream.OnGpu("PositionEmbeddingForward")) {
    return cuda::PositionEmbeddingForward(stream, positions, table, y);
  }
  const int64_t hidden = table.dim(1), rows = table.dim(0);
  CHECK_EQ(y.elements(), positions.elements() * hidden);
  const int32_t* position = positions.as<int32_t>();
  WithFloatTypes(table.dtype(), y.dtype(), [&](auto* in, auto* out) {
    const auto* source = table.as<std::remove_pointer_t<decltype(in)>>();
    auto* target = y.as<std::remove_pointer_t<decltype(out)>>();
    RowBlocks<64>(stream, positions.elements(), [&](int64_t n) {
      CHECK(position[n] >= 0 && position[n] < rows) << position[n] << " of " << rows;
      ForLanes(hidden, [&](int64_t i, auto count) {
        auto* y_i = target + n * hidden + i;
        Store(y_i, Load(y_i, count) + Load(source + position[n] * hidden + i, count), count);
      });
    });
  });
}

}  // namespace trireme
