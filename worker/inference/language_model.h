// LanguageModel: a causal model read from a MODEL, run without training: cached decoding and
// batched scoring.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "worker/model/decoder_stage.h"
#include "worker/model/frozen_parameters.h"

namespace trireme {

class WeightSource;

class LanguageModel {
 public:
  struct Options {
    DType compute = DType::kF32;
    int threads = 1;
  };

  // Errors: those of WeightSource::Open.
  static Result<std::unique_ptr<LanguageModel>> Load(const std::string& model,
                                                     const Options& options);
  ~LanguageModel();

  const ModelShape& shape() const { return shape_; }
  // Facts beside the weights: tokenizer, training length, special ids.
  const WeightSource& source() const { return *source_; }

  // Sequences that grow together, with the keys and values of what they have seen.
  class Session {
   public:
    // All `batch` sequences hold at most `capacity` tokens.
    Session(LanguageModel* model, int64_t batch, int64_t capacity);

    int64_t length() const { return length_; }
    int64_t capacity() const { return capacity_; }
    // Appends T tokens to each sequence (ids: [batch * T], sequence-major) and returns the logits
    // [batch, V] after the last of them, valid until the next call.
    Tensor Append(std::span<const int32_t> ids);
    // The same with the logits of every new position: [batch * T, V].
    Tensor AppendWithAllLogits(std::span<const int32_t> ids);
    // Sequence i continues what was sequence parents[i]: beams.
    void Reorder(std::span<const int> parents);
    // Forgets all but the first `length` tokens.
    void Truncate(int64_t length);

   private:
    Tensor Run(std::span<const int32_t> ids, bool all);

    LanguageModel* model_;
    int64_t batch_, capacity_, length_ = 0;
    Buffer cache_memory_, token_memory_, logits_memory_;
    std::vector<KeyValueCache> caches_;  // by layer
  };

  // Losses (negative log-likelihoods) of labels given ids, by token. ids, labels: [B, T], labels of
  // kNoLabel give 0. B * T values. The batch's shape may change from call to call, at a cost.
  std::vector<float> TokenLosses(int64_t batch, int64_t length, std::span<const int32_t> ids,
                                 std::span<const int32_t> labels);

 private:
  LanguageModel();
  void EnsureScratch(TokenShape tokens);

  std::unique_ptr<WeightSource> source_;
  ModelShape shape_;
  std::vector<ParameterSpec> specs_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<FrozenParameters> parameters_;
  BlockContext context_;
  DecoderBlocks blocks_;
  int64_t scratch_tokens_ = 0;
};

}  // namespace trireme
