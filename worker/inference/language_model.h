// LanguageModel: a causal model read from a MODEL, run without training: cached decoding and
// batched scoring.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "worker/inference/input_staging.h"
#include "worker/model/decoder_stage.h"
#include "worker/model/frozen_parameters.h"

namespace trireme {

class WeightSource;

class LanguageModel {
 public:
  struct Options {
    DType compute = DType::kF32;
    int threads = 1;         // of a CPU
    std::optional<Gpu> gpu;  // none: on the CPU
  };

  // On a GPU the model and its sessions belong to the calling thread. Errors: those of
  // WeightSource::Open.
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
    // [batch, V] after the last of them, in the host's memory, valid until the next call.
    Tensor Append(std::span<const int32_t> ids);
    // The same with the logits of every new position: [batch * T, V].
    Tensor AppendWithAllLogits(std::span<const int32_t> ids);
    // Sequence i continues what was sequence parents[i]: beams.
    void Reorder(std::span<const int> parents);
    // Forgets all but the first `length` tokens.
    void Truncate(int64_t length);

   private:
    // Where the logits of one pass stand while the model makes them, and where the caller reads
    // them: one place on a CPU.
    struct Logits {
      Tensor on_device;
      Tensor on_host;
    };
    Logits LogitsMemory(int64_t rows, int64_t rows_in_pass);
    Tensor Run(std::span<const int32_t> ids, bool all);
    // Tokens [begin, begin + t) of each sequence's `length` new ones. The hidden states after the
    // final norm, [batch * t, H], in the model's scratch memory.
    Tensor RunPass(std::span<const int32_t> ids, int64_t length, int64_t begin, int64_t t);
    // Of each sequence's hidden states the last one, side by side.
    Tensor LastTokens(const Tensor& hidden);
    // The logits of some hidden states, to row `row` of the host's.
    void MakeLogits(const Tensor& hidden, const Logits& logits, int64_t row);

    LanguageModel* model_;
    int64_t batch_, capacity_, length_ = 0;
    Buffer cache_memory_, reorder_memory_;
    Buffer logits_memory_, logits_on_gpu_;
    std::vector<KeyValueCache> caches_;  // by layer
  };

  // Losses (negative log-likelihoods) of labels given ids, by token. ids, labels: [B, T], labels of
  // kNoLabel give 0. B * T values. The batch's shape may change from call to call, at a cost.
  std::vector<float> TokenLosses(int64_t batch, int64_t length, std::span<const int32_t> ids,
                                 std::span<const int32_t> labels);

 private:
  LanguageModel();
  void EnsureScratch(TokenShape tokens);
  // The losses in the host's memory, valid until the next call.
  const float* BringLosses(const Tensor& losses);

  std::unique_ptr<WeightSource> source_;
  ModelShape shape_;
  std::vector<ParameterSpec> specs_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<FrozenParameters> parameters_;
  BlockContext context_;
  DecoderBlocks blocks_;
  InputStaging inputs_;
  Buffer losses_memory_;  // pinned; on a GPU alone
  int64_t scratch_tokens_ = 0;
};

}  // namespace trireme
