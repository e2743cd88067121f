#include "worker/inference/generator.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

namespace trireme {
namespace {

// Bytes of the longest prefix of `text` that ends with a whole UTF-8 character.
size_t WholeCharacters(const std::string& text) {
  size_t i = text.size();
  for (int back = 0; back < 4 && i > 0; ++back) {
    const auto byte = static_cast<unsigned char>(text[--i]);
    if ((byte & 0xC0) == 0x80) continue;
    const size_t length = byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
    return i + length <= text.size() ? text.size() : i;
  }
  return text.size();
}

// Turns tokens into text as they come, and sees stop strings.
class TextStream {
 public:
  TextStream(const Tokenizer* tokenizer, const std::vector<int32_t>& prompt,
             const GenerationOptions& options)
      : tokenizer_(tokenizer), options_(options) {
    begins_text_ = tokenizer != nullptr &&
                   (prompt.back() == tokenizer->bos() || prompt.back() == tokenizer->end_of_text());
  }

  // True when a stop string has come.
  bool Add(int32_t id) {
    if (tokenizer_ == nullptr) return false;
    const size_t before = text_.size();
    text_ += begins_text_ ? tokenizer_->Decode({&id, 1}) : tokenizer_->TokenBytes(id);
    begins_text_ = false;
    // Several may have become whole with this token: the text ends before the first of them.
    size_t end = std::string::npos;
    for (const std::string& stop : options_.stop) {
      const size_t from = before > stop.size() ? before - stop.size() : 0;
      end = std::min(end, text_.find(stop, from));
    }
    if (end != std::string::npos) {
      text_.resize(end);
      Emit(end);
      return true;
    }
    Emit(Certain());
    return false;
  }
  std::string Finish() {
    Emit(text_.size());
    return std::move(text_);
  }

 private:
  // Up to where no stop string may still begin and characters are whole.
  size_t Certain() const {
    size_t certain = WholeCharacters(text_);
    for (const std::string& stop : options_.stop) {
      for (size_t n = std::min(stop.size() - 1, text_.size()); n > 0; --n) {
        if (text_.compare(text_.size() - n, n, stop, 0, n) == 0) {
          certain = std::min(certain, text_.size() - n);
          break;
        }
      }
    }
    return certain;
  }
  void Emit(size_t end) {
    if (!options_.on_text || end <= emitted_) return;
    options_.on_text(text_.substr(emitted_, end - emitted_));
    emitted_ = end;
  }

  const Tokenizer* tokenizer_;
  const GenerationOptions& options_;
  std::string text_;
  size_t emitted_ = 0;
  bool begins_text_ = false;  // the next token is the first: no space that an encoder put in front
};

bool Ends(const GenerationOptions& options, int32_t id) {
  return !options.ignore_end &&
         std::find(options.end_ids.begin(), options.end_ids.end(), id) != options.end_ids.end();
}

std::span<const float> Row(const Tensor& logits, int64_t row) {
  return {logits.as<float>() + row * logits.dim(1), static_cast<size_t>(logits.dim(1))};
}

Result<Generation> GenerateOneByOne(LanguageModel::Session* session, const Tokenizer* tokenizer,
                                    const std::vector<int32_t>& prompt,
                                    const GenerationOptions& options) {
  Generation result;
  result.finish_reason = "length";
  Sampler sampler(options.sampling);
  TextStream stream(tokenizer, prompt, options);
  std::vector<int32_t> seen = prompt;
  Tensor logits;
  while (static_cast<int64_t>(result.ids.size()) < options.tokens_max) {
    logits =
        result.ids.empty() ? session->Append(prompt) : session->Append({&result.ids.back(), 1});
    const auto draw = static_cast<int64_t>(result.ids.size());
    const std::span<const float> row = Row(logits, 0);
    ASSIGN_OR_RETURN(const double normaliser, LogSumExp(row, std::ssize(seen)));
    const int32_t id = sampler.Pick(row, seen, draw);
    if (Ends(options, id)) {
      result.finish_reason = "stop";
      break;
    }
    result.ids.push_back(id);
    result.logprobs.push_back(row[id] - normaliser);
    seen.push_back(id);
    if (stream.Add(id)) {
      result.finish_reason = "stop";
      break;
    }
  }
  result.text = stream.Finish();
  return result;
}

// A beam that runs on, or one that is finished.
struct Beam {
  double sum = 0;  // of log probabilities
  double score = 0;
  int parent = 0;
  int32_t last = 0;
  std::vector<int32_t> ids;
  std::vector<double> logprobs;
  bool ended = false;
};

// The 2k best extensions of the running beams, best first; ties go to the earlier beam, lower id.
// token: the place in the text of those that they add.
Result<std::vector<Beam>> Extend(const std::vector<Beam>& running, const Tensor& logits, int k,
                                 int64_t token) {
  struct Candidate {
    double sum;
    double logprob;
    int parent;
    int32_t id;
  };
  std::vector<Candidate> candidates;
  const auto better = [](const Candidate& a, const Candidate& b) {
    if (a.sum != b.sum) return a.sum > b.sum;
    return std::pair(a.parent, a.id) < std::pair(b.parent, b.id);
  };
  for (size_t b = 0; b < running.size(); ++b) {
    const auto row = Row(logits, static_cast<int64_t>(b));
    ASSIGN_OR_RETURN(const double normaliser, LogSumExp(row, token));
    std::vector<Candidate> own(row.size());
    for (size_t i = 0; i < row.size(); ++i) {
      const double logprob = row[i] - normaliser;
      own[i] = {running[b].sum + logprob, logprob, static_cast<int>(b), static_cast<int32_t>(i)};
    }
    const size_t keep = std::min<size_t>(2 * k, own.size());
    std::partial_sort(own.begin(), own.begin() + keep, own.end(), better);
    candidates.insert(candidates.end(), own.begin(), own.begin() + keep);
  }
  std::sort(candidates.begin(), candidates.end(), better);
  candidates.resize(std::min<size_t>(2 * k, candidates.size()));
  std::vector<Beam> extended;
  for (const Candidate& c : candidates) {
    Beam beam = running[c.parent];
    beam.sum = c.sum;
    beam.parent = c.parent;
    beam.last = c.id;
    beam.ids.push_back(c.id);
    beam.logprobs.push_back(c.logprob);
    extended.push_back(std::move(beam));
  }
  return extended;
}

// Beam search as transformers runs it without early stopping: candidates that end among the first k
// join the finished ones with sum / length^penalty; it stops when the best running beam cannot beat
// the worst of k finished ones.
Result<Beam> SearchBeams(LanguageModel::Session* session, const std::vector<int32_t>& prompt,
                         const GenerationOptions& options) {
  const int k = options.beams;
  std::vector<Beam> running(1), finished;
  std::vector<int32_t> ids;
  for (int b = 0; b < k; ++b) ids.insert(ids.end(), prompt.begin(), prompt.end());
  Tensor logits = session->Append(ids);
  for (int64_t n = 1;; ++n) {
    const int64_t token = std::ssize(prompt) + n - 1;
    ASSIGN_OR_RETURN(const std::vector<Beam> candidates, Extend(running, logits, k, token));
    running.clear();
    for (size_t i = 0; i < candidates.size(); ++i) {
      Beam beam = candidates[i];
      beam.ended = Ends(options, beam.last);
      if (beam.ended || n == options.tokens_max) {
        if (static_cast<int>(i) >= k) continue;
        beam.score = beam.sum / std::pow(static_cast<double>(n), options.length_penalty);
        finished.push_back(std::move(beam));
      } else if (static_cast<int>(running.size()) < k) {
        running.push_back(std::move(beam));
      }
    }
    std::stable_sort(finished.begin(), finished.end(),
                     [](const Beam& a, const Beam& b) { return a.score > b.score; });
    if (static_cast<int>(finished.size()) > k) finished.resize(k);
    if (running.empty()) break;
    if (static_cast<int>(finished.size()) == k &&
        running[0].sum / std::pow(static_cast<double>(n), options.length_penalty) <=
            finished.back().score) {
      break;
    }
    std::vector<int> parents(k, 0);
    std::vector<int32_t> next(k, running[0].last);
    for (size_t b = 0; b < running.size(); ++b) {
      parents[b] = running[b].parent;
      next[b] = running[b].last;
    }
    session->Reorder(parents);
    logits = session->Append(next);
  }
  return finished[0];
}

}  // namespace

Result<Generation> Generate(LanguageModel* model, const Tokenizer* tokenizer,
                            const std::vector<int32_t>& prompt, const GenerationOptions& options) {
  const ModelShape& shape = model->shape();
  if (prompt.empty()) return InvalidArgumentError("the prompt has no token");
  for (int32_t id : prompt) {
    if (id >= 0 && id < shape.vocab_size) continue;
    return InvalidArgumentError(StrCat("prompt id ", id, ": expected 0 to ", shape.vocab_size - 1,
                                       ", the model's vocabulary"));
  }
  const auto prompt_length = static_cast<int64_t>(prompt.size());
  if (options.tokens_max > shape.max_positions - prompt_length) {
    return InvalidArgumentError(StrCat("prompt of ", prompt.size(), " and ", options.tokens_max,
                                       " new tokens: the model has ", shape.max_positions,
                                       " positions"));
  }
  const int64_t length = prompt_length + options.tokens_max;
  LanguageModel::Session session(model, std::max(1, options.beams), length);
  if (options.beams <= 1) return GenerateOneByOne(&session, tokenizer, prompt, options);
  ASSIGN_OR_RETURN(Beam best, SearchBeams(&session, prompt, options));
  Generation result;
  result.finish_reason = best.ended ? "stop" : "length";
  if (best.ended) {
    best.ids.pop_back();
    best.logprobs.pop_back();
  }
  result.ids = std::move(best.ids);
  result.logprobs = std::move(best.logprobs);
  TextStream stream(tokenizer, prompt, options);
  for (size_t i = 0; i < result.ids.size(); ++i) {
    if (!stream.Add(result.ids[i])) continue;
    result.ids.resize(i + 1);
    result.logprobs.resize(i + 1);
    result.finish_reason = "stop";
  }
  result.text = stream.Finish();
  return result;
}

Result<std::vector<int32_t>> PromptIds(const Tokenizer& tokenizer, const std::string& prompt) {
  std::vector<int32_t> ids;
  if (tokenizer.adds_bos() && tokenizer.bos()) ids.push_back(*tokenizer.bos());
  tokenizer.Encode(prompt, &ids);
  if (!ids.empty()) return ids;
  if (tokenizer.bos()) return std::vector<int32_t>{*tokenizer.bos()};
  if (tokenizer.end_of_text()) return std::vector<int32_t>{*tokenizer.end_of_text()};
  return InvalidArgumentError(
      "an empty prompt: the tokenizer has neither a BOS nor an end-of-text token to start from");
}

}  // namespace trireme
