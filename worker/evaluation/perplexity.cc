#include "worker/evaluation/perplexity.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "worker/kernels/cross_entropy.h"

namespace trireme {
namespace {

constexpr int64_t kTokensPerBatch = 2048;

// Counts the bytes of a text whose tokens come one after the other.
class TextBytes {
 public:
  explicit TextBytes(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}

  // `counts`: false for a token that only comes before those whose bytes are wanted.
  void Add(int32_t id, bool counts) {
    // What separates documents is predicted, and is no text.
    const bool separates = id == tokenizer_->end_of_text() || id == tokenizer_->bos();
    if (!separates && counts) {
      const std::string text = tokenizer_->TokenBytes(id);
      // The encoder's own space before a document is no text either.
      const bool invented =
          begins_document_ && tokenizer_->adds_prefix_space() && text.starts_with(' ');
      bytes_ += static_cast<int64_t>(text.size()) - (invented ? 1 : 0);
    }
    begins_document_ = separates;
  }
  int64_t bytes() const { return bytes_; }

 private:
  const Tokenizer* tokenizer_;
  bool begins_document_ = true;
  int64_t bytes_ = 0;
};

}  // namespace

double PerplexityResult::Perplexity() const {
  return std::exp(nll_sum / static_cast<double>(tokens));
}

std::optional<double> PerplexityResult::BitsPerByte() const {
  if (!bytes || *bytes == 0) return std::nullopt;
  return nll_sum / std::log(2.0) / static_cast<double>(*bytes);
}

Result<PerplexityResult> EvaluatePerplexity(LanguageModel* model, const TokenStream& stream,
                                            const Tokenizer* tokenizer,
                                            const PerplexityOptions& options) {
  const int64_t length = options.length, vocab = model->shape().vocab_size;
  const int64_t predicted_first = options.bos ? 0 : 1;
  const int64_t predictions = stream.tokens - predicted_first;
  if (predictions < 1) return DataLossError(StrCat(stream.tokens, " tokens: nothing to predict"));
  int64_t windows = (predictions + length - 1) / length;
  if (options.windows_max > 0) windows = std::min(windows, options.windows_max);
  const int64_t rows = std::clamp<int64_t>(kTokensPerBatch / length, 1, windows);

  PerplexityResult result;
  std::optional<TextBytes> bytes;
  if (tokenizer != nullptr) bytes.emplace(tokenizer);
  std::vector<int32_t> window(length + 1), ids, labels;
  for (int64_t first = 0; first < windows; first += rows) {
    ids.assign(rows * length, 0);
    labels.assign(rows * length, kNoLabel);
    for (int64_t row = 0; row < std::min(rows, windows - first); ++row) {
      const int64_t begin = (first + row) * length;
      const int64_t count = std::min(length, predictions - begin);
      // window[0] is fed first; window[i + 1] is predicted from window[.. i].
      if (options.bos) {
        window[0] = *options.bos;
        stream.read(begin, {window.data() + 1, static_cast<size_t>(count)});
      } else {
        stream.read(begin, {window.data(), static_cast<size_t>(count + 1)});
      }
      for (int64_t i = 0; i <= count; ++i) {
        if (window[i] >= 0 && window[i] < vocab) continue;
        return InvalidArgumentError(StrCat("token ", begin + i, " is ", window[i],
                                           ", but the model's vocabulary has ", vocab));
      }
      // The stream's first token is seen, and predicted only behind a BOS.
      if (bytes && begin == 0 && !options.bos) bytes->Add(window[0], false);
      for (int64_t i = 0; i < count; ++i) {
        ids[row * length + i] = window[i];
        labels[row * length + i] = window[i + 1];
        if (bytes) bytes->Add(window[i + 1], true);
      }
      result.tokens += count;
    }
    for (float loss : model->TokenLosses(rows, length, ids, labels)) result.nll_sum += loss;
    if (options.progress) options.progress(std::min(windows, first + rows), windows);
  }
  if (bytes) result.bytes = bytes->bytes();
  return result;
}

namespace {

// Counts of a stream, with add-one unigram probabilities.
class NgramCounts {
 public:
  NgramCounts(std::span<const int32_t> ids, int64_t vocab_size) : unigrams_(vocab_size, 0) {
    for (int32_t id : ids) ++unigrams_[id];
    total_ = static_cast<double>(ids.size() + vocab_size);
    pairs_.reserve(ids.size());
    for (size_t i = 0; i + 1 < ids.size(); ++i) pairs_.push_back(Key(ids[i], ids[i + 1]));
    std::sort(pairs_.begin(), pairs_.end());
  }
  double Unigram(int32_t id) const { return (unigrams_[id] + 1.0) / total_; }
  // Share of `b` among what followed `a`; a token that nothing followed says nothing.
  double Bigram(int32_t a, int32_t b) const {
    const auto first = std::lower_bound(pairs_.begin(), pairs_.end(), Key(a, 0));
    const auto last = std::lower_bound(first, pairs_.end(), Key(a + 1, 0));
    if (first == last) return Unigram(b);
    const auto range = std::equal_range(first, last, Key(a, b));
    return static_cast<double>(range.second - range.first) / static_cast<double>(last - first);
  }

 private:
  static uint64_t Key(int64_t a, int64_t b) {
    return (static_cast<uint64_t>(a) << 32) | static_cast<uint64_t>(b);
  }
  std::vector<int64_t> unigrams_;
  std::vector<uint64_t> pairs_;
  double total_ = 0;
};

// The weight of the bigram that makes `ids` likeliest: expectation maximisation over two sources.
// At most n / (n + 1) of n pairs: text that repeats itself would bring the weight to 1, and then
// one pair that never stood in it makes the perplexity infinite.
double ChooseWeight(const NgramCounts& counts, std::span<const int32_t> ids) {
  std::vector<std::pair<double, double>> probabilities;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    probabilities.push_back({counts.Bigram(ids[i], ids[i + 1]), counts.Unigram(ids[i + 1])});
  }
  double weight = 0.5;
  for (int round = 0; round < 40 && !probabilities.empty(); ++round) {
    double share = 0;
    for (const auto& [bigram, unigram] : probabilities) {
      share += weight * bigram / (weight * bigram + (1 - weight) * unigram);
    }
    weight = share / static_cast<double>(probabilities.size());
  }
  const auto pairs = static_cast<double>(probabilities.size());
  return std::min(weight, pairs / (pairs + 1));
}

Result<std::vector<int32_t>> ReadAll(const TokenStream& stream, int64_t vocab_size,
                                     const char* what) {
  std::vector<int32_t> ids(stream.tokens);
  if (ids.size() < 20) {
    return DataLossError(StrCat(what, " has ", ids.size(), " tokens: expected at least 20"));
  }
  stream.read(0, ids);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return DataLossError(
          StrCat(what, ": token ", i, " is ", ids[i], ", but the vocabulary has ", vocab_size));
    }
  }
  return ids;
}

}  // namespace

Result<NgramResult> EvaluateNgrams(const TokenStream& train, const TokenStream& validation,
                                   int64_t vocab_size) {
  ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                   ReadAll(train, vocab_size, "the training stream"));
  ASSIGN_OR_RETURN(const std::vector<int32_t> held_out,
                   ReadAll(validation, vocab_size, "the validation stream"));
  const std::span<const int32_t> all(ids);
  NgramResult result;
  {
    const size_t cut = ids.size() - ids.size() / 10;
    result.bigram_weight = ChooseWeight(NgramCounts(all.first(cut), vocab_size), all.subspan(cut));
  }
  const NgramCounts counts(all, vocab_size);
  double unigram = 0, bigram = 0;
  const double w = result.bigram_weight;
  for (size_t i = 0; i + 1 < held_out.size(); ++i) {
    const double p = counts.Unigram(held_out[i + 1]);
    unigram -= std::log(p);
    bigram -= std::log(w * counts.Bigram(held_out[i], held_out[i + 1]) + (1 - w) * p);
  }
  result.tokens = static_cast<int64_t>(held_out.size()) - 1;
  result.unigram_perplexity = std::exp(unigram / static_cast<double>(result.tokens));
  result.bigram_perplexity = std::exp(bigram / static_cast<double>(result.tokens));
  return result;
}

}  // namespace trireme
