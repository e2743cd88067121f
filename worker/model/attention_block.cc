#include "worker/model/attention_block.h"

#include <algorithm>
#include <cmath>

namespace trireme {

RotaryTable::RotaryTable(const ModelShape& shape, int64_t positions, Stream* stream)
    : memory_(2 * positions * (shape.head_dim / 2) * ByteSize(DType::kF32), stream->device()) {
  const std::vector<double> inv_freq = RotaryInverseFrequencies(shape);
  const auto half = static_cast<int64_t>(inv_freq.size());
  std::vector<float> values(2 * positions * half);
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * inv_freq[i];
      values[p * half + i] = static_cast<float>(std::cos(angle));
      values[(positions + p) * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  stream->Copy(memory_.data(), values.data(), memory_.bytes());
  stream->Synchronize();
  auto* table = reinterpret_cast<float*>(memory_.data());
  cosines_ = Tensor(table, DType::kF32, {positions, half}, stream->device());
  sines_ = Tensor(table + positions * half, DType::kF32, {positions, half}, stream->device());
}

AttentionBlock::AttentionBlock(BlockContext* context, const ModelShape& shape,
                               const AttentionParameters& ids, Linear::Layout layout,
                               const RotaryTable* rotary)
    : context_(context),
      query_heads_(shape.heads / context->tensor.size()),
      kv_heads_(std::max<int64_t>(1, shape.kv_heads / context->tensor.size())),
      head_dim_(shape.head_dim),
      scale_(static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)))),
      rotary_(rotary),
      out_(context, ids.o, ids.o_bias, layout) {
  if (ids.qkv >= 0) {
    in_.emplace_back(context, ids.qkv, ids.qkv_bias, layout);
  } else {
    in_.emplace_back(context, ids.q, ids.q_bias, layout);
    in_.emplace_back(context, ids.k, ids.k_bias, layout);
    in_.emplace_back(context, ids.v, ids.v_bias, layout);
  }
}

AttentionBlock::Saved AttentionBlock::Allocate(Arena& arena, TokenShape tokens) const {
  const int64_t n = tokens.tokens();
  Saved saved;
  saved.qkv = arena.Allocate(context_->compute, {n, width(0) + 2 * width(1)});
  saved.mixed = arena.Allocate(context_->compute, {n, width(0)});
  saved.log_sum_exp = arena.Allocate(DType::kF32, {tokens.batch, query_heads_, tokens.length});
  return saved;
}

Heads AttentionBlock::HeadsOf(const Tensor& qkv, TokenShape tokens, int part) const {
  const int64_t first = part == 0 ? 0 : width(0) + (part - 1) * width(1);
  return {qkv.bytes_data() + first * ByteSize(qkv.dtype()),
          qkv.dtype(),
          tokens.batch,
          tokens.length,
          part == 0 ? query_heads_ : kv_heads_,
          head_dim_,
          qkv.dim(1)};
}

namespace {

Heads DenseHeads(const Tensor& x, TokenShape tokens, int64_t heads, int64_t head_dim) {
  return {x.data(), x.dtype(), tokens.batch, tokens.length, heads, head_dim, heads * head_dim};
}

}  // namespace

void AttentionBlock::ProjectIn(const Tensor& x, const Tensor& qkv) const {
  const Matrix out = Matrix::Of(qkv);
  if (in_.size() == 1) {
    in_[0].Forward(Matrix::Of(x), out);
    return;
  }
  int64_t column = 0;
  for (int part = 0; part < 3; ++part) {
    in_[part].Forward(Matrix::Of(x), out.Columns(column, column + width(part)));
    column += width(part);
  }
}

void AttentionBlock::ProjectOut(const Tensor& mixed, const Tensor& y) const {
  out_.ForwardPartial(Matrix::Of(mixed), Matrix::Of(y));
  context_->tensor.Sum(y);
}

void AttentionBlock::Rotate(const Tensor& qkv, TokenShape tokens, const TokenPlaces& places,
                            bool inverse) const {
  if (rotary_ == nullptr) return;
  for (int part : {0, 1}) {
    RotaryInPlace(*context_->stream, HeadsOf(qkv, tokens, part), places.positions,
                  rotary_->cosines(), rotary_->sines(), inverse);
  }
}

void AttentionBlock::Forward(TokenShape tokens, const TokenPlaces& places, const Tensor& x,
                             const Saved& saved, const Tensor& y) const {
  ProjectIn(x, saved.qkv);
  Rotate(saved.qkv, tokens, places, false);
  AttentionForward(*context_->stream, HeadsOf(saved.qkv, tokens, 0), HeadsOf(saved.qkv, tokens, 1),
                   HeadsOf(saved.qkv, tokens, 2), scale_, places.document_starts,
                   DenseHeads(saved.mixed, tokens, query_heads_, head_dim_), saved.log_sum_exp);
  ProjectOut(saved.mixed, y);
}

void AttentionBlock::Backward(TokenShape tokens, const TokenPlaces& places, const Tensor& dy,
                              const Tensor& x, const Saved& saved, const Tensor& dmixed,
                              const Tensor& dqkv, const Tensor& dx, MicrobatchId microbatch,
                              WeightWork* work) const {
  out_.BackwardInput(Matrix::Of(dy), Matrix::Of(dmixed), false);
  work->Add(out_, Matrix::Of(dy), Matrix::Of(saved.mixed), microbatch);
  AttentionBackward(*context_->stream, DenseHeads(dmixed, tokens, query_heads_, head_dim_),
                    HeadsOf(saved.qkv, tokens, 0), HeadsOf(saved.qkv, tokens, 1),
                    HeadsOf(saved.qkv, tokens, 2),
                    DenseHeads(saved.mixed, tokens, query_heads_, head_dim_), saved.log_sum_exp,
                    scale_, places.document_starts, HeadsOf(dqkv, tokens, 0),
                    HeadsOf(dqkv, tokens, 1), HeadsOf(dqkv, tokens, 2));
  Rotate(dqkv, tokens, places, true);
  const Matrix d = Matrix::Of(dqkv);
  if (in_.size() == 1) {
    in_[0].BackwardInput(d, Matrix::Of(dx), false);
    context_->tensor.StartSum(dx);
    work->Add(in_[0], d, Matrix::Of(x), microbatch);
  } else {
    int64_t column = 0;
    std::vector<Matrix> parts;
    for (int part = 0; part < 3; ++part) {
      parts.push_back(d.Columns(column, column + width(part)));
      in_[part].BackwardInput(parts.back(), Matrix::Of(dx), part > 0);
      column += width(part);
    }
    context_->tensor.StartSum(dx);
    for (int part = 0; part < 3; ++part)
      work->Add(in_[part], parts[part], Matrix::Of(x), microbatch);
  }
  context_->tensor.FinishSum();
}

void AttentionBlock::Decode(TokenShape tokens, const TokenPlaces& places, const Tensor& x,
                            const KeyValueCache& cache, const Tensor& lengths,
                            const Tensor& y) const {
  const int64_t mark = context_->scratch.Mark();
  const Saved saved = Allocate(context_->scratch, tokens);
  ProjectIn(x, saved.qkv);
  Rotate(saved.qkv, tokens, places, false);
  const int64_t capacity = cache.keys.dim(1);
  const auto cached = [&](const Tensor& all) {
    return Heads{all.data(), all.dtype(), tokens.batch, capacity, kv_heads_, head_dim_, width(1)};
  };
  AppendToCache(*context_->stream, HeadsOf(saved.qkv, tokens, 1), lengths, cached(cache.keys));
  AppendToCache(*context_->stream, HeadsOf(saved.qkv, tokens, 2), lengths, cached(cache.values));
  AttentionDecode(*context_->stream, HeadsOf(saved.qkv, tokens, 0), cached(cache.keys),
                  cached(cache.values), lengths, scale_,
                  DenseHeads(saved.mixed, tokens, query_heads_, head_dim_));
  ProjectOut(saved.mixed, y);
  context_->scratch.Release(mark);
}

}  // namespace trireme
