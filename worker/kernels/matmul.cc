#include "worker/kernels/matmul.h"

#include <algorithm>

#include "worker/kernels/gemm.h"

namespace trireme {
namespace {

std::byte* At(const Matrix& matrix, int64_t row, int64_t column) {
  return static_cast<std::byte*>(matrix.data) +
         (row * matrix.row_stride + column) * ByteSize(matrix.dtype);
}

// How a result of M x N is cut. Depends on the shape alone, never on threads.
struct Panels {
  int64_t rows, columns;  // of a panel
  int64_t row_count, column_count;
};

// Sizes at which one core reaches its peak on the products of a training step, and which leave
// at least 16 panels to a product that is worth spreading.
constexpr int64_t kPanelRows = 256;
constexpr int64_t kPanelRowsMin = 128;
constexpr int64_t kPanelColumns = 512;
constexpr int64_t kPanelsWanted = 16;

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The even cut of `size` into pieces of at most `most`, piece sizes rounded up to 16 lanes.
int64_t EvenPiece(int64_t size, int64_t most) {
  const int64_t count = CeilDivide(size, most);
  return std::min(size, CeilDivide(CeilDivide(size, count), 16) * 16);
}

Panels Cut(int64_t m, int64_t n) {
  Panels panels;
  panels.columns = EvenPiece(n, kPanelColumns);
  panels.rows = EvenPiece(m, kPanelRows);
  panels.column_count = CeilDivide(n, panels.columns);
  if (CeilDivide(m, panels.rows) * panels.column_count < kPanelsWanted) {
    panels.rows = EvenPiece(m, kPanelRowsMin);
  }
  panels.row_count = CeilDivide(m, panels.rows);
  return panels;
}

}  // namespace

Matrix Matrix::Of(const Tensor& tensor) {
  CHECK_GE(tensor.rank(), 1);
  const int64_t columns = tensor.dim(-1);
  return {tensor.data(), tensor.dtype(), columns == 0 ? 0 : tensor.elements() / columns, columns,
          columns};
}

Matrix Matrix::OfRows(const Tensor& tensor) {
  CHECK_GE(tensor.rank(), 1);
  const int64_t rows = tensor.dim(0);
  const int64_t columns = rows == 0 ? 0 : tensor.elements() / rows;
  return {tensor.data(), tensor.dtype(), rows, columns, columns};
}

Matrix Matrix::Columns(int64_t begin, int64_t end) const {
  CHECK(0 <= begin && begin <= end && end <= columns) << begin << ":" << end << " of " << columns;
  return {At(*this, 0, begin), dtype, rows, end - begin, row_stride};
}

Matrix Matrix::Rows(int64_t begin, int64_t end) const {
  CHECK(0 <= begin && begin <= end && end <= rows) << begin << ":" << end << " of " << rows;
  return {At(*this, begin, 0), dtype, end - begin, columns, row_stride};
}

void MatMul(Stream& stream, const Matrix& a, Transpose transpose_a, const Matrix& b,
            Transpose transpose_b, const Matrix& c, bool accumulate, const Tensor& bias) {
  const bool ta = transpose_a == Transpose::kYes;
  const bool tb = transpose_b == Transpose::kYes;
  const int64_t m = c.rows, n = c.columns, k = ta ? a.rows : a.columns;
  CHECK_EQ(m, ta ? a.columns : a.rows);
  CHECK_EQ(n, tb ? b.rows : b.columns);
  CHECK_EQ(k, tb ? b.columns : b.rows);
  CHECK(a.dtype == b.dtype) << DTypeName(a.dtype) << " by " << DTypeName(b.dtype);
  CHECK(c.dtype == DType::kF32 || !accumulate) << "accumulation is in float32";
  if (bias.defined()) CHECK_EQ(bias.elements(), n);
  if (m == 0 || n == 0) return;
  CHECK_GT(k, 0);

  GemmCall whole;
  whole.k = k;
  whole.lda = a.row_stride;
  whole.ldb = b.row_stride;
  whole.ldc = c.row_stride;
  whole.input = a.dtype;
  whole.output = c.dtype;
  whole.transpose_a = ta;
  whole.transpose_b = tb;
  whole.accumulate = accumulate;
  const Panels panels = Cut(m, n);
  stream.ParallelFor(panels.row_count * panels.column_count, [&](int64_t panel) {
    const int64_t row = panel / panels.column_count * panels.rows;
    const int64_t column = panel % panels.column_count * panels.columns;
    GemmCall call = whole;
    call.m = std::min(panels.rows, m - row);
    call.n = std::min(panels.columns, n - column);
    call.a = ta ? At(a, 0, row) : At(a, row, 0);
    call.b = tb ? At(b, column, 0) : At(b, 0, column);
    call.c = At(c, row, column);
    if (bias.defined()) call.bias = bias.as<float>() + column;
    Gemm(call);
  });
}

}  // namespace trireme
