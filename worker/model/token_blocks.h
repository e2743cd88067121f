// The two ends of a causal model: token embedding, and the classifier fused with its loss.
#pragma once

#include "worker/model/attention_block.h"
#include "worker/model/block.h"

namespace trireme {

class EmbeddingBlock {
 public:
  // first_row: of this rank's part of the vocabulary. positions: -1 without learned positions.
  EmbeddingBlock(BlockContext* context, int64_t hidden, ParamId table, int64_t first_row,
                 ParamId positions)
      : context_(context),
        hidden_(hidden),
        table_(table),
        first_row_(first_row),
        positions_(positions) {}

  // ids: [N] i32. x: [N, H] compute dtype.
  void Forward(const Tensor& ids, const TokenPlaces& places, const Tensor& x) const;
  void Backward(const Tensor& ids, const TokenPlaces& places, const Tensor& dx,
                MicrobatchId microbatch) const;
  int64_t ScratchBytes(int64_t tokens) const;

 private:
  BlockContext* context_;
  int64_t hidden_;
  ParamId table_;
  int64_t first_row_;
  ParamId positions_;
};

// Loss and its gradient over chunks of tokens: full logits never exist. The gradient of the head's
// weight is added in the same pass, while the chunk's logits are at hand. On a GPU logits have the
// compute dtype, and their gradients are made of them in place, by one kernel where rows are whole.
class Classifier {
 public:
  // role: of the head's gradient (1 when the table is the embedding's). rows: this rank's part of
  // the vocabulary.
  Classifier(BlockContext* context, int64_t hidden, ParamId head, int role, int64_t first_row,
             int64_t rows)
      : context_(context),
        hidden_(hidden),
        head_(head),
        role_(role),
        first_row_(first_row),
        rows_(rows) {}

  // The loss is the sum of the losses of the tokens that have a label, in f64: of LossParts(N)
  // parts on the stream's device, to be added in their order. Also d(scale * loss)/dx in dx ([N, H]
  // of GradientDType(), summed over the tensor group). x: [N, H]. labels: [N] i32.
  void Train(const Tensor& x, const Tensor& labels, double scale, const Tensor& dx,
             MicrobatchId microbatch, double* loss_parts) const;
  // The loss alone. losses: [N] f32 by token, or undefined. loss_parts may be null.
  void Evaluate(const Tensor& x, const Tensor& labels, const Tensor& losses,
                double* loss_parts = nullptr) const;
  int64_t LossParts(int64_t n) const;
  DType GradientDType() const;
  // logits: [N, rows] f32 of this rank's part.
  void Logits(const Tensor& x, const Tensor& logits) const;

  int64_t ScratchBytes(int64_t tokens) const;
  int64_t rows() const { return rows_; }

 private:
  // On a GPU: in the compute dtype, in place.
  bool InPlace() const { return context_->device == DeviceKind::kCuda; }
  // Of the vocabulary, on this rank.
  bool WholeRows() const { return context_->tensor.size() == 1; }
  // Products on a GPU are made with the rows behind the vocabulary, which are zeros.
  int64_t ProductRows() const { return InPlace() ? PaddedRows(rows_) : rows_; }
  struct Chunk {
    Tensor logits, dlogits, row_max, row_sum, target, losses, gathered;
  };
  // Tokens whose losses are one part of the sum: a chunk of an evaluation.
  int64_t PartTokens(int64_t tokens) const;
  // Tokens of a chunk in training: whole parts.
  int64_t TrainTokens(int64_t tokens) const;
  Chunk Allocate(Arena& arena, int64_t tokens) const;
  Chunk AllocateInPlace(Arena& arena, int64_t tokens) const;
  void AllocateStatistics(Arena& arena, int64_t tokens, Chunk* chunk) const;
  // Statistics over the whole vocabulary, and the chunk's losses.
  void Score(const Chunk& chunk, const Tensor& labels) const;
  // Losses of a chunk, and what its logits become: their gradient [tokens, ProductRows()].
  Matrix LossesAndGradient(const Tensor& x, const Tensor& labels, const Matrix& weight,
                           double scale, const Chunk& chunk) const;

  BlockContext* context_;
  int64_t hidden_;
  ParamId head_;
  int role_;
  int64_t first_row_;
  int64_t rows_;
};

}  // namespace trireme
