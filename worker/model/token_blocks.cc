#include "worker/model/token_blocks.h"

#include <algorithm>
#include <bit>

#include "cluster/device/elementwise.h"
#include "worker/kernels/cross_entropy.h"
#include "worker/kernels/embedding.h"

namespace trireme {

void EmbeddingBlock::Forward(const Tensor& ids, const TokenPlaces& places, const Tensor& x) const {
  Stream& stream = *context_->stream;
  const int64_t mark = context_->scratch.Mark();
  const int64_t n = x.dim(0);
  const bool summed = context_->tensor.size() > 1 && x.dtype() != DType::kF32;
  const Tensor y = summed ? context_->scratch.Allocate(DType::kF32, {n, hidden_}) : x;
  EmbeddingForward(stream, ids, context_->parameters->Acquire(table_), first_row_, y);
  context_->parameters->Release(table_);
  context_->tensor.Sum(y);
  if (positions_ >= 0) {
    PositionEmbeddingForward(stream, places.positions.View({n}),
                             context_->parameters->Acquire(positions_), y);
    context_->parameters->Release(positions_);
  }
  if (summed) CastToBFloat16(stream, x.as<BFloat16>(), y.as<float>(), x.elements());
  context_->scratch.Release(mark);
}

void EmbeddingBlock::Backward(const Tensor& ids, const TokenPlaces& places, const Tensor& dx,
                              MicrobatchId microbatch) const {
  ParameterStore& parameters = *context_->parameters;
  const GradientSink table = parameters.Gradients(table_, 0, microbatch);
  EmbeddingBackward(*context_->stream, ids, dx, first_row_, table.accumulator, table.accumulate);
  parameters.GradientDone(table_, 0, microbatch);
  if (positions_ < 0) return;
  const GradientSink sink = parameters.Gradients(positions_, 0, microbatch);
  EmbeddingBackward(*context_->stream, places.positions.View({dx.dim(0)}), dx, 0, sink.accumulator,
                    sink.accumulate);
  parameters.GradientDone(positions_, 0, microbatch);
}

int64_t EmbeddingBlock::ScratchBytes(int64_t tokens) const {
  return Arena::RoundUp(tokens * hidden_ * ByteSize(DType::kF32));
}

int64_t Classifier::PartTokens(int64_t tokens) const {
  const int64_t row_bytes = rows_ * ByteSize(DType::kF32);
  if (context_->device == DeviceKind::kCpu) {
    // A chunk's logits should stay near the caches; products want a few hundred rows.
    constexpr int64_t kLogitBytes = 8 << 20;
    return std::min(tokens, std::max<int64_t>(128, kLogitBytes / row_bytes / 64 * 64));
  }
  // Few chunks: each passes over the head's gradient. A power of two suits the products.
  constexpr int64_t kLogitBytes = 1 << 30;
  const auto fit = static_cast<uint64_t>(std::max<int64_t>(128, kLogitBytes / row_bytes));
  return std::min(tokens, static_cast<int64_t>(std::bit_floor(fit)));
}

int64_t Classifier::TrainTokens(int64_t tokens) const {
  const int64_t parts = InPlace() ? ByteSize(DType::kF32) / ByteSize(context_->compute) : 1;
  return std::min(tokens, parts * PartTokens(tokens));
}

DType Classifier::GradientDType() const {
  return InPlace() && WholeRows() ? context_->compute : DType::kF32;
}

void Classifier::AllocateStatistics(Arena& arena, int64_t tokens, Chunk* chunk) const {
  chunk->row_max = arena.Allocate(DType::kF32, {tokens});
  chunk->row_sum = arena.Allocate(DType::kF32, {tokens});
  chunk->target = arena.Allocate(DType::kF32, {tokens});
  if (!WholeRows()) {
    chunk->gathered = arena.Allocate(DType::kF32, {context_->tensor.size(), 3, tokens});
  }
}

Classifier::Chunk Classifier::Allocate(Arena& arena, int64_t tokens) const {
  Chunk chunk;
  chunk.logits = arena.Allocate(DType::kF32, {tokens, rows_});
  chunk.dlogits = context_->compute == DType::kF32
                      ? chunk.logits
                      : arena.Allocate(context_->compute, {tokens, rows_});
  chunk.losses = arena.Allocate(DType::kF32, {tokens});
  AllocateStatistics(arena, tokens, &chunk);
  return chunk;
}

// Rows are padded: products and kernels want them at multiples of 16 bytes, and of 128 best.
Classifier::Chunk Classifier::AllocateInPlace(Arena& arena, int64_t tokens) const {
  constexpr int64_t kStep = 64;
  const int64_t stride = (rows_ + kStep - 1) / kStep * kStep;
  Chunk chunk;
  chunk.logits = chunk.dlogits = arena.Allocate(context_->compute, {tokens, stride});
  chunk.losses = arena.Allocate(DType::kF32, {tokens});
  if (!WholeRows()) AllocateStatistics(arena, tokens, &chunk);
  return chunk;
}

int64_t Classifier::ScratchBytes(int64_t tokens) const {
  Arena evaluation = Arena::Measuring(), training = Arena::Measuring();
  Allocate(evaluation, PartTokens(tokens));
  if (InPlace()) AllocateInPlace(training, TrainTokens(tokens));
  return std::max(evaluation.used_bytes_max(), training.used_bytes_max());
}

void Classifier::Logits(const Tensor& x, const Tensor& logits) const {
  MatMul(*context_->stream, Matrix::Of(x), Transpose::kNo,
         Matrix::Of(context_->parameters->Acquire(head_)), Transpose::kYes, Matrix::Of(logits));
  context_->parameters->Release(head_);
}

void Classifier::Score(const Chunk& chunk, const Tensor& labels) const {
  Stream& stream = *context_->stream;
  const int64_t n = labels.dim(0);
  if (WholeRows()) {
    SoftmaxStatistics(stream, chunk.logits, rows_, labels, first_row_, chunk.row_max, chunk.row_sum,
                      chunk.target);
  } else {
    const Tensor own =
        chunk.gathered.Rows(context_->tensor.rank(), context_->tensor.rank() + 1).View({3, n});
    SoftmaxStatistics(stream, chunk.logits, rows_, labels, first_row_, own.Rows(0, 1).View({n}),
                      own.Rows(1, 2).View({n}), own.Rows(2, 3).View({n}));
    context_->tensor.Gather(chunk.gathered);
    CombineSoftmaxStatistics(stream, chunk.gathered, chunk.row_max, chunk.row_sum, chunk.target);
  }
  TokenLosses(stream, labels, chunk.row_max, chunk.row_sum, chunk.target, chunk.losses);
}

int64_t Classifier::LossParts(int64_t n) const {
  const int64_t step = PartTokens(n);
  return (n + step - 1) / step;
}

namespace {

// A parameter's memory with as many rows: see kRowStep.
Matrix WithRows(const Tensor& tensor, int64_t rows) {
  Matrix matrix = Matrix::Of(tensor);
  CHECK_LE(rows, PaddedRows(matrix.rows));
  matrix.rows = rows;
  return matrix;
}

}  // namespace

Matrix Classifier::LossesAndGradient(const Tensor& x, const Tensor& labels, const Matrix& weight,
                                     double scale, const Chunk& chunk) const {
  Stream& stream = *context_->stream;
  const Matrix logits = Matrix::Of(chunk.logits).Columns(0, ProductRows());
  MatMul(stream, Matrix::Of(x), Transpose::kNo, weight, Transpose::kYes, logits);
  if (InPlace() && WholeRows()) {
    CrossEntropyInPlace(stream, chunk.logits, rows_, labels, static_cast<float>(scale),
                        chunk.losses);
    return logits;
  }
  Score(chunk, labels);
  SoftmaxGradient(stream, chunk.logits, rows_, labels, first_row_, chunk.row_max, chunk.row_sum,
                  static_cast<float>(scale), chunk.dlogits);
  return Matrix::Of(chunk.dlogits).Columns(0, ProductRows());
}

void Classifier::Train(const Tensor& x, const Tensor& labels, double scale, const Tensor& dx,
                       MicrobatchId microbatch, double* loss_parts) const {
  Stream& stream = *context_->stream;
  ParameterStore& parameters = *context_->parameters;
  const int64_t n = x.dim(0), step = TrainTokens(n), part = PartTokens(n);
  const Matrix weight = WithRows(parameters.Acquire(head_), ProductRows());
  GradientSink sink = parameters.Gradients(head_, role_, microbatch);
  const Matrix gradient = WithRows(sink.accumulator, ProductRows());
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t end = std::min(n, begin + step), mark = context_->scratch.Mark();
    const Chunk chunk = InPlace() ? AllocateInPlace(context_->scratch, end - begin)
                                  : Allocate(context_->scratch, end - begin);
    const Tensor rows = x.Rows(begin, end);
    const Matrix dlogits = LossesAndGradient(rows, labels.Rows(begin, end), weight, scale, chunk);
    for (int64_t at = begin; at < end; at += part) {
      SumF64(stream, chunk.losses.Rows(at - begin, std::min(end, at + part) - begin), loss_parts++);
    }
    MatMul(stream, dlogits, Transpose::kNo, weight, Transpose::kNo,
           Matrix::Of(dx.Rows(begin, end)));
    MatMul(stream, dlogits, Transpose::kYes, Matrix::Of(rows), Transpose::kNo, gradient,
           sink.accumulate);
    sink.accumulate = true;
    context_->scratch.Release(mark);
  }
  parameters.GradientDone(head_, role_, microbatch);
  parameters.Release(head_);
  context_->tensor.Sum(dx);
}

void Classifier::Evaluate(const Tensor& x, const Tensor& labels, const Tensor& losses,
                          double* loss_parts) const {
  const int64_t n = x.dim(0), step = PartTokens(n);
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t end = std::min(n, begin + step), mark = context_->scratch.Mark();
    const Chunk chunk = Allocate(context_->scratch, end - begin);
    Logits(x.Rows(begin, end), chunk.logits);
    Score(chunk, labels.Rows(begin, end));
    if (loss_parts != nullptr) SumF64(*context_->stream, chunk.losses, loss_parts++);
    if (losses.defined()) {
      context_->stream->Copy(losses.Rows(begin, end).data(), chunk.losses.data(),
                             chunk.losses.bytes());
    }
    context_->scratch.Release(mark);
  }
}

}  // namespace trireme
