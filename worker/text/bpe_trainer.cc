#include "worker/text/bpe_trainer.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "worker/text/byte_level.h"
#include "worker/text/tokenizer_files.h"

namespace trireme {
namespace {

uint64_t PairOf(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

// How often each pair stands next to each other.
class PairCounts {
 public:
  PairCounts() : slots_(1 << 16) {}

  // The reference holds until the next call.
  int64_t& At(uint64_t pair) {
    size_t at = Hash(pair);
    while (slots_[at].pair != pair) {
      if (slots_[at].pair == kFree) {
        if ((used_ + 1) * 2 > slots_.size()) {
          Grow();
          return At(pair);
        }
        ++used_;
        slots_[at].pair = pair;
        break;
      }
      at = (at + 1) & (slots_.size() - 1);
    }
    return slots_[at].count;
  }

 private:
  static constexpr uint64_t kFree = ~uint64_t{0};
  struct Slot {
    uint64_t pair = kFree;
    int64_t count = 0;
  };

  size_t Hash(uint64_t pair) const {
    return (pair * 0x9e3779b97f4a7c15u >> 20) & (slots_.size() - 1);
  }
  void Grow() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.pair == kFree) continue;
      size_t at = Hash(slot.pair);
      while (slots_[at].pair != kFree) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t used_ = 0;
};

// A pair that could be merged next, with the words in which it was found when its token was new.
struct Candidate {
  int64_t count;
  uint64_t pair;
  std::vector<uint32_t> words;
};

// Orders a heap: the highest count on top, of equal counts the smallest pair.
struct Below {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.count != b.count ? a.count < b.count : a.pair > b.pair;
  }
};

// What one merge found on one side of its occurrences: for each neighbour how often, and in which
// words. Arrays by the neighbour's id, so that an occurrence costs no look-up by pair.
class Neighbours {
 public:
  void Add(int32_t id, int64_t count, uint32_t word) {
    if (static_cast<size_t>(id) >= entries_.size()) entries_.resize(id + 1 + id / 2);
    Entry& entry = entries_[id];
    if (entry.words.empty()) seen_.push_back(id);
    entry.count += count;
    if (entry.words.empty() || entry.words.back() != word) entry.words.push_back(word);
  }

  // Calls f(id, count, words) for each neighbour and forgets it; words ascend.
  template <typename F>
  void Drain(F f) {
    for (const int32_t id : seen_) {
      Entry& entry = entries_[id];
      f(id, entry.count, entry.words);
      entry.count = 0;
      entry.words.clear();
      if (entry.words.capacity() > kKeptWords) std::vector<uint32_t>().swap(entry.words);
    }
    seen_.clear();
  }

 private:
  static constexpr size_t kKeptWords = 256;  // the room that an empty entry may keep
  struct Entry {
    int64_t count = 0;
    std::vector<uint32_t> words;
  };
  std::vector<Entry> entries_;
  std::vector<int32_t> seen_;
};

class Trainer {
 public:
  Trainer(const WordTable& words, const BpeTrainOptions& options) : options_(options) {
    for (const std::string& special : options.special_tokens) NewToken(special, special);
    std::array<int, 256> bytes;
    std::iota(bytes.begin(), bytes.end(), 0);
    std::sort(bytes.begin(), bytes.end(), [](int a, int b) {
      return ByteLevelCodePoint(static_cast<uint8_t>(a)) <
             ByteLevelCodePoint(static_cast<uint8_t>(b));
    });
    std::array<int32_t, 256> byte_ids;
    for (const int byte : bytes) {
      const std::string text(1, static_cast<char>(byte));
      byte_ids[byte] = NewToken(text, ByteLevelEncode(text));
    }
    LoadWords(words, byte_ids);
  }

  BpeDefinition Train() {
    CountPairs();
    while (static_cast<int64_t>(tokens_.size()) < options_.vocab_size && !heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), Below());
      Candidate& top = heap_.back();
      const int64_t count = counts_.At(top.pair);
      if (top.count != count) {
        top.count = count;
        std::push_heap(heap_.begin(), heap_.end(), Below());
        continue;
      }
      if (count < 1 || count < options_.min_frequency) break;
      const Candidate chosen = std::move(top);
      heap_.pop_back();
      Merge(chosen);
    }
    return Definition();
  }

 private:
  // The id of a token, new or known; ids follow each other. Tokens are told apart by their
  // spelling, in which a special token is spelled as it is.
  int32_t NewToken(const std::string& bytes, const std::string& spelling) {
    const auto [at, is_new] =
        id_of_spelling_.emplace(spelling, static_cast<int32_t>(tokens_.size()));
    if (is_new) tokens_.push_back(bytes);
    return at->second;
  }

  void LoadWords(const WordTable& words, const std::array<int32_t, 256>& byte_ids) {
    symbols_.reserve(words.bytes());
    for (size_t i = 0; i < words.size(); ++i) {
      const std::string_view word = words.word(i);
      if (word.size() < 2) continue;  // nothing to merge
      words_.push_back({symbols_.size(), static_cast<uint32_t>(word.size()), words.count(i)});
      for (const char c : word) symbols_.push_back(byte_ids[static_cast<uint8_t>(c)]);
    }
  }

  // Words of bytes alone: as if each byte in turn had just been made.
  void CountPairs() {
    std::vector<Neighbours> after(tokens_.size());
    for (size_t i = 0; i < words_.size(); ++i) {
      const int32_t* symbols = &symbols_[words_[i].begin];
      for (uint32_t j = 0; j + 1 < words_[i].size; ++j) {
        after[symbols[j]].Add(symbols[j + 1], words_[i].count, static_cast<uint32_t>(i));
      }
    }
    for (size_t left = 0; left < after.size(); ++left) {
      after[left].Drain([&](int32_t right, int64_t count, const std::vector<uint32_t>& words) {
        const uint64_t pair = PairOf(static_cast<int32_t>(left), right);
        counts_.At(pair) = count;
        Push({count, pair, words});
      });
    }
  }

  void Push(Candidate candidate) {
    if (candidate.count <= 0) return;
    heap_.push_back(std::move(candidate));
    std::push_heap(heap_.begin(), heap_.end(), Below());
  }

  // The counts of pairs that overlap with a merged one change at both sides; the merged pair's own
  // count is left as it was, as nothing looks at it again.
  void Merge(const Candidate& chosen) {
    const auto left = static_cast<int32_t>(chosen.pair >> 32);
    const auto right = static_cast<int32_t>(chosen.pair & 0xffffffffu);
    const std::string bytes = tokens_[left] + tokens_[right];
    const int32_t made = NewToken(bytes, ByteLevelEncode(bytes));
    merges_.push_back({left, right, made, static_cast<uint32_t>(merges_.size())});
    for (const uint32_t index : chosen.words) MergeInWord(left, right, made, index);

    // All counts first: a pair can gain on one side and lose on the other.
    fresh_.clear();
    before_.Drain([&](int32_t id, int64_t count, std::vector<uint32_t>& words) {
      counts_.At(PairOf(id, left)) -= count;
      counts_.At(PairOf(id, made)) += count;
      fresh_.push_back({0, PairOf(id, made), words});
    });
    const size_t of_before = fresh_.size();
    after_.Drain([&](int32_t id, int64_t count, std::vector<uint32_t>& words) {
      counts_.At(PairOf(right, id)) -= count;
      counts_.At(PairOf(made, id)) += count;
      fresh_.push_back({0, PairOf(made, id), words});
    });
    JoinTwins(made, of_before);
    for (Candidate& candidate : fresh_) {
      if (candidate.words.empty()) continue;
      candidate.count = counts_.At(candidate.pair);
      Push(std::move(candidate));
    }
  }

  // The pair (made, made) can come from both sides; it is one candidate.
  void JoinTwins(int32_t made, size_t of_before) {
    const uint64_t pair = PairOf(made, made);
    const auto is_twin = [pair](const Candidate& candidate) { return candidate.pair == pair; };
    const auto middle = fresh_.begin() + static_cast<ptrdiff_t>(of_before);
    const auto first = std::find_if(fresh_.begin(), middle, is_twin);
    const auto second = std::find_if(middle, fresh_.end(), is_twin);
    if (first == middle || second == fresh_.end()) return;
    std::vector<uint32_t> joined;
    std::set_union(first->words.begin(), first->words.end(), second->words.begin(),
                   second->words.end(), std::back_inserter(joined));
    first->words = std::move(joined);
    second->words.clear();
  }

  void MergeInWord(int32_t left, int32_t right, int32_t made, uint32_t index) {
    Word& word = words_[index];
    int32_t* const symbols = &symbols_[word.begin];
    const uint32_t size = word.size;
    uint32_t from = 0;
    while (from + 1 < size && (symbols[from] != left || symbols[from + 1] != right)) ++from;
    if (from + 1 >= size) return;
    uint32_t to = from;
    while (from < size) {
      if (from + 1 >= size || symbols[from] != left || symbols[from + 1] != right) {
        symbols[to++] = symbols[from++];
        continue;
      }
      if (to > 0) before_.Add(symbols[to - 1], word.count, index);
      if (from + 2 < size) after_.Add(symbols[from + 2], word.count, index);
      symbols[to++] = made;
      from += 2;
    }
    word.size = to;
  }

  BpeDefinition Definition() const {
    BpeDefinition definition;
    for (size_t id = 0; id < tokens_.size(); ++id) {
      PutToken(static_cast<int64_t>(id), tokens_[id], &definition);
    }
    for (const std::string& special : options_.special_tokens) {
      AddedToken token;
      token.id = id_of_spelling_.at(special);
      token.content = special;
      definition.added.push_back(std::move(token));
    }
    // A pair can be chosen twice when its token is made in two ways; the later place counts.
    std::unordered_map<uint64_t, uint32_t> last_rank;
    for (const BpeMerge& merge : merges_) last_rank[PairOf(merge.left, merge.right)] = merge.rank;
    for (const BpeMerge& merge : merges_) {
      if (last_rank[PairOf(merge.left, merge.right)] != merge.rank) continue;
      definition.merges.push_back(merge);
      definition.merges.back().rank = static_cast<uint32_t>(definition.merges.size() - 1);
    }
    definition.stages.push_back({options_.pattern});
    NameEndOfText(&definition);
    if (!definition.end_of_text && !definition.added.empty()) {
      definition.end_of_text = definition.added[0].id;
    }
    return definition;
  }

  struct Word {
    uint64_t begin;
    uint32_t size;
    int64_t count;
  };

  const BpeTrainOptions& options_;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t> id_of_spelling_;
  std::vector<BpeMerge> merges_;
  std::vector<int32_t> symbols_;
  std::vector<Word> words_;
  PairCounts counts_;
  std::vector<Candidate> heap_;
  Neighbours before_, after_;  // of the merge at work
  std::vector<Candidate> fresh_;
};

}  // namespace

Status CheckBpeTrainOptions(const BpeTrainOptions& options) {
  const auto smallest = static_cast<int64_t>(256 + options.special_tokens.size());
  if (options.vocab_size < smallest || options.vocab_size > kVocabularySizeMax) {
    return InvalidArgumentError(StrCat("vocabulary size ", options.vocab_size, ": expected ",
                                       smallest, " (256 bytes and the special tokens) to ",
                                       kVocabularySizeMax));
  }
  for (const std::string& special : options.special_tokens) {
    if (special.empty()) return InvalidArgumentError("a special token is empty");
  }
  return OkStatus();
}

Result<BpeDefinition> TrainBpe(const WordTable& words, const BpeTrainOptions& options) {
  RETURN_IF_ERROR(CheckBpeTrainOptions(options));
  return Trainer(words, options).Train();
}

}  // namespace trireme
