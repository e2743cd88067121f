// Perplexity of a model over a stream of tokens, in windows.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "worker/inference/language_model.h"
#include "worker/text/tokenizer.h"

namespace trireme {

// A stream of token ids of known length; Read(begin, out) fills `out` with the ids from `begin` on.
struct TokenStream {
  int64_t tokens = 0;
  std::function<void(int64_t begin, std::span<int32_t> out)> read;
};

struct PerplexityOptions {
  int64_t length = 256;        // L: window and stride
  std::optional<int32_t> bos;  // window i then feeds BOS and predicts its own L tokens
  int64_t windows_max = 0;     // 0: all
  std::function<void(int64_t done, int64_t all)> progress;
};

struct PerplexityResult {
  double nll_sum = 0;  // natural logarithm
  int64_t tokens = 0;  // predicted
  // Of the predicted text, less separators of documents and spaces that the encoder put before
  // them.
  std::optional<int64_t> bytes;
  double Perplexity() const;
  std::optional<double> BitsPerByte() const;
};

// Window i feeds tokens i L .. i L + L - 1 and predicts i L + 1 .. i L + L (with BOS: feeds BOS and
// i L .. i L + L - 2, predicts i L .. i L + L - 1); a last shorter window counts too.
// tokenizer: for bytes; may be null. kDataLoss: an id outside the vocabulary, nothing to predict.
Result<PerplexityResult> EvaluatePerplexity(LanguageModel* model, const TokenStream& stream,
                                            const Tokenizer* tokenizer,
                                            const PerplexityOptions& options);

// Baselines that need no network.
struct NgramResult {
  double unigram_perplexity = 0;  // add-one
  double bigram_perplexity = 0;   // interpolated with the unigram
  // Chosen on the last tenth of the training stream; at most n / (n + 1), n being its pairs, so
  // that a pair never seen keeps a probability.
  double bigram_weight = 0;
  int64_t tokens = 0;  // predicted: all of the validation stream but its first
};
// kDataLoss: streams too short, or an id that is not below vocab_size.
Result<NgramResult> EvaluateNgrams(const TokenStream& train, const TokenStream& validation,
                                   int64_t vocab_size);

}  // namespace trireme
