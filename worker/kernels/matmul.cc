#include "worker/kernels/matmul.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <set>
#include <string>

#include "cluster/base/status.h"
#include "worker/kernels/activation.h"
#include "worker/kernels/cuda_kernels.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gemm.h"
#include "worker/kernels/scratch.h"
#include "worker/kernels/transpose.h"

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

// Sizes at which one core reaches its peak on the products of a training step: the largest rows
// that leave enough panels to spread.
constexpr int64_t kPanelRows[] = {512, 256, 128};
constexpr int64_t kPanelColumns = 512;
constexpr int64_t kPanelsWanted = 16;
// The even cut of `size` into pieces of at most `most`, piece sizes rounded up to 16 lanes.
int64_t EvenPiece(int64_t size, int64_t most) {
  const int64_t count = CeilDivide(size, most);
  return std::min(size, CeilDivide(CeilDivide(size, count), 16) * 16);
}

Panels Cut(int64_t m, int64_t n) {
  Panels panels;
  panels.columns = EvenPiece(n, kPanelColumns);
  panels.column_count = CeilDivide(n, panels.columns);
  for (int64_t rows : kPanelRows) {
    panels.rows = EvenPiece(m, rows);
    panels.row_count = CeilDivide(m, panels.rows);
    if (panels.row_count * panels.column_count >= kPanelsWanted) break;
  }
  return panels;
}

// Rows of a packed operand are this much further apart than they are long: rows at powers of two
// fight for the same lines of the caches.
constexpr int64_t kPad = 16;
constexpr int64_t kBadStride = 1024;
constexpr int64_t kPackColumnsMin = 64;

// An f32 panel of a transposed `a` with rows at multiples of 4 KiB is copied together first, and
// any where the library reads it in place.
void GemmPacked(GemmCall call) {
  const bool pack = call.input == DType::kF32 && call.transpose_a && call.n >= kPackColumnsMin &&
                    (call.lda % kBadStride == 0 || GemmReadsInPlace());
  if (!pack) return Gemm(call);
  thread_local ThreadScratch scratch;
  const int64_t stride = call.m + kPad;
  scratch.Reset(ThreadScratch::Bytes<float>(call.k * stride));
  float* a = scratch.Take<float>(call.k * stride);
  const auto* from = static_cast<const float*>(call.a);
  for (int64_t k = 0; k < call.k; ++k) {
    std::memcpy(a + k * stride, from + k * call.lda, call.m * sizeof(float));
  }
  call.a = a;
  call.lda = stride;
  Gemm(call);
}

void RunPanels(Stream& stream, const GemmCall& whole) {
  const Panels panels = Cut(whole.m, whole.n);
  stream.ParallelFor(panels.row_count * panels.column_count, [&](int64_t panel) {
    const int64_t row = panel / panels.column_count * panels.rows;
    const int64_t column = panel % panels.column_count * panels.columns;
    const int64_t input = ByteSize(whole.input);
    GemmCall call = whole;
    call.m = std::min(panels.rows, whole.m - row);
    call.n = std::min(panels.columns, whole.n - column);
    call.a = static_cast<const std::byte*>(whole.a) +
             (whole.transpose_a ? row : row * whole.lda) * input;
    call.b = static_cast<const std::byte*>(whole.b) +
             (whole.transpose_b ? column * whole.ldb : column) * input;
    call.c = static_cast<std::byte*>(whole.c) + (row * whole.ldc + column) * ByteSize(whole.output);
    if (whole.bias != nullptr) call.bias = whole.bias + column;
    GemmPacked(call);
  });
}

// The library reads f32 weights [N, K] slower than [K, N]: where many rows use them, they are
// transposed first, as many columns of the result at a time as fit in kTransposedBytes.
constexpr int64_t kTransposeRowsMin = 1024;
constexpr int64_t kTransposedBytes = int64_t{8} << 20;
constexpr int64_t kTransposeBlock = 64;

void RunTransposed(Stream& stream, const GemmCall& whole) {
  thread_local ThreadScratch scratch;
  const int64_t fit = kTransposedBytes / (whole.k * static_cast<int64_t>(sizeof(float)));
  const int64_t columns = std::clamp(fit / kPanelColumns * kPanelColumns, kPanelColumns, whole.n);
  const int64_t stride = columns + kPad;
  scratch.Reset(ThreadScratch::Bytes<float>(whole.k * stride));
  float* b = scratch.Take<float>(whole.k * stride);
  for (int64_t column = 0; column < whole.n; column += columns) {
    GemmCall part = whole;
    part.n = std::min(columns, whole.n - column);
    const float* from = static_cast<const float*>(whole.b) + column * whole.ldb;
    stream.ParallelFor(CeilDivide(part.n, kTransposeBlock), [&](int64_t block) {
      const int64_t begin = block * kTransposeBlock;
      TransposeRows(from + begin * whole.ldb, whole.ldb, std::min(kTransposeBlock, part.n - begin),
                    whole.k, b + begin, stride);
    });
    part.b = b;
    part.ldb = stride;
    part.transpose_b = false;
    part.c = static_cast<std::byte*>(whole.c) + column * ByteSize(whole.output);
    if (whole.bias != nullptr) part.bias = whole.bias + column;
    RunPanels(stream, part);
  }
}

// Where the library reads `b` in place, and many rows use it, it is copied to padded rows first, as
// many as fit in kTransposedBytes at a time.
constexpr int64_t kPackRowsMin = 256;  // of the result
constexpr int64_t kPackedRowsMin =
    256;  // of b at a time: the result is read and written in each go

void RunPacked(Stream& stream, const GemmCall& whole) {
  thread_local ThreadScratch scratch;
  const int64_t stride = whole.n + kPad;
  const int64_t row_bytes = stride * static_cast<int64_t>(sizeof(float));
  const int64_t rows = EvenPiece(whole.k, std::max(kPackedRowsMin, kTransposedBytes / row_bytes));
  scratch.Reset(ThreadScratch::Bytes<float>(rows * stride));
  float* b = scratch.Take<float>(rows * stride);
  for (int64_t begin = 0; begin < whole.k; begin += rows) {
    GemmCall part = whole;
    part.k = std::min(rows, whole.k - begin);
    part.a = static_cast<const float*>(whole.a) + (whole.transpose_a ? begin * whole.lda : begin);
    part.accumulate = whole.accumulate || begin > 0;
    if (begin > 0) part.bias = nullptr;
    const float* from = static_cast<const float*>(whole.b) + begin * whole.ldb;
    stream.ParallelFor(CeilDivide(part.k, kTransposeBlock), [&](int64_t block) {
      const int64_t end = std::min(part.k, (block + 1) * kTransposeBlock);
      for (int64_t row = block * kTransposeBlock; row < end; ++row) {
        std::memcpy(b + row * stride, from + row * whole.ldb, whole.n * sizeof(float));
      }
    });
    part.b = b;
    part.ldb = stride;
    RunPanels(stream, part);
  }
}

void CheckShapes(const Matrix& a, bool ta, const Matrix& b, bool tb, const Matrix& c,
                 const Tensor& bias) {
  const int64_t m = c.rows, n = c.columns, k = ta ? a.rows : a.columns;
  CHECK_EQ(m, ta ? a.columns : a.rows);
  CHECK_EQ(n, tb ? b.rows : b.columns);
  CHECK_EQ(k, tb ? b.columns : b.rows);
  CHECK(a.dtype == b.dtype) << DTypeName(a.dtype) << " by " << DTypeName(b.dtype);
  if (bias.defined()) CHECK_EQ(bias.elements(), n);
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

namespace {

// The name of a product on a GPU's stream: with its sizes while operations are timed or awaited one
// by one. Names are kept for ever; shapes are few.
const char* NameOf(const Stream& stream, const char* operation, const Matrix& a, bool transpose_a,
                   bool transpose_b, const Matrix& c, bool accumulate) {
  if (stream.device() == DeviceKind::kCpu || stream.CanRecord()) return operation;
  static std::mutex& mutex = *new std::mutex;
  static auto& names = *new std::set<std::string>;
  const std::string name =
      StrCat(operation, " ", c.rows, "x", c.columns, "x", transpose_a ? a.rows : a.columns, " ",
             transpose_a ? "T" : "N", transpose_b ? "T" : "N", accumulate ? " +=" : "");
  std::lock_guard lock(mutex);
  return names.insert(name).first->c_str();
}

}  // namespace

void MatMul(Stream& stream, const Matrix& a, Transpose transpose_a, const Matrix& b,
            Transpose transpose_b, const Matrix& c, bool accumulate, const Tensor& bias) {
  const bool ta = transpose_a == Transpose::kYes;
  const bool tb = transpose_b == Transpose::kYes;
  const int64_t m = c.rows, n = c.columns, k = ta ? a.rows : a.columns;
  CheckShapes(a, ta, b, tb, c, bias);
  CHECK(c.dtype == DType::kF32 || !accumulate) << "accumulation is in float32";
  if (m == 0 || n == 0) return;
  CHECK_GT(k, 0);
  if (stream.OnGpu(NameOf(stream, "MatMul", a, ta, tb, c, accumulate))) {
    return cuda::MatMul(stream, a, transpose_a, b, transpose_b, c, accumulate, bias);
  }

  GemmCall whole;
  whole.a = a.data;
  whole.b = b.data;
  whole.c = c.data;
  if (bias.defined()) whole.bias = bias.as<float>();
  whole.m = m;
  whole.n = n;
  whole.k = k;
  whole.lda = a.row_stride;
  whole.ldb = b.row_stride;
  whole.ldc = c.row_stride;
  whole.input = a.dtype;
  whole.output = c.dtype;
  whole.transpose_a = ta;
  whole.transpose_b = tb;
  whole.accumulate = accumulate;
  if (tb && m >= kTransposeRowsMin && a.dtype == DType::kF32) {
    RunTransposed(stream, whole);
  } else if (!tb && m >= kPackRowsMin && n >= kPackColumnsMin && a.dtype == DType::kF32 &&
             c.dtype == DType::kF32 && GemmReadsInPlace()) {
    RunPacked(stream, whole);
  } else {
    RunPanels(stream, whole);
  }
}

void MatMulGelu(Stream& stream, const Matrix& a, const Matrix& b, Transpose transpose_b,
                const Tensor& bias, const Tensor& pre, const Tensor& y) {
  CheckShapes(a, false, b, transpose_b == Transpose::kYes, Matrix::Of(pre), bias);
  CheckSameShape(y, pre, "MatMulGelu");
  CHECK(y.dtype() == pre.dtype()) << DTypeName(y.dtype());
  if (pre.elements() == 0) return;
  CHECK_GT(a.columns, 0);
  const bool turned = transpose_b == Transpose::kYes;
  if (stream.OnGpu(NameOf(stream, "MatMulGelu", a, false, turned, Matrix::Of(pre), false))) {
    return cuda::MatMulGelu(stream, a, b, transpose_b, bias, pre, y);
  }
  MatMul(stream, a, Transpose::kNo, b, transpose_b, Matrix::Of(pre), false, bias);
  GeluForward(stream, pre, y);
}

void MatMulGeluBackward(Stream& stream, const Matrix& dy, const Matrix& b, Transpose transpose_b,
                        const Tensor& pre, const Tensor& dpre) {
  CheckShapes(dy, false, b, transpose_b == Transpose::kYes, Matrix::Of(dpre), Tensor());
  CheckSameShape(dpre, pre, "MatMulGeluBackward");
  CHECK(dpre.dtype() == pre.dtype()) << DTypeName(dpre.dtype());
  if (pre.elements() == 0) return;
  CHECK_GT(dy.columns, 0);
  const bool turned = transpose_b == Transpose::kYes;
  const Matrix out = Matrix::Of(dpre);
  if (stream.OnGpu(NameOf(stream, "MatMulGeluBackward", dy, false, turned, out, false))) {
    return cuda::MatMulGeluBackward(stream, dy, b, transpose_b, pre, dpre);
  }
  MatMul(stream, dy, Transpose::kNo, b, transpose_b, Matrix::Of(dpre));
  GeluBackward(stream, dpre, pre, dpre);
}

}  // namespace trireme
