// Encoding walks the text once: cut at bytes that are not UTF-8, normalise, cut into words, look
// the word up among recent ones, merge if it is not there.
#include "worker/text/bpe_tokenizer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <tuple>
#include <utility>

#include "cluster/base/checksum.h"
#include "worker/text/added_tokens.h"
#include "worker/text/bpe_borders.h"
#include "worker/text/normalize_nfc.h"
#include "worker/text/pretokenize.h"
#include "worker/text/token_index.h"
#include "worker/text/tokenizer_json.h"
#include "worker/text/utf8_segments.h"
#include "worker/text/word_cache.h"

namespace trireme {
namespace {

constexpr size_t kPiecesABlock = 512;

class BpeTokenizer : public Tokenizer {
 public:
  BpeTokenizer(BpeDefinition definition, std::vector<std::unique_ptr<PreTokenizer>> stages)
      : definition_(std::move(definition)),
        stages_(std::move(stages)),
        merger_(definition_.merges),
        added_(definition_.added) {
    std::vector<bool> usable = definition_.present;
    for (const AddedToken& token : definition_.added) usable[token.id] = false;
    if (definition_.kind == BpeDefinition::Kind::kSentencePiece) {
      // Byte tokens stand for what has no piece; text never matches them.
      for (const int32_t id : definition_.byte_ids) {
        if (id >= 0) usable[id] = false;
      }
    } else if (std::ranges::all_of(definition_.byte_ids, [](int32_t id) { return id >= 0; })) {
      borders_ = BpeBorders(definition_.merges, definition_.tokens);
    }
    index_ = TokenIndex(definition_.tokens, usable);
  }

  void Encode(std::string_view text, std::vector<int32_t>* ids) const override {
    std::unique_ptr<Scratch> scratch = TakeScratch();
    EncodeText(text, scratch.get(), ids);
    GiveScratch(std::move(scratch));
  }

  void EncodeWithSpecials(std::string_view text, std::vector<int32_t>* ids) const override {
    std::unique_ptr<Scratch> scratch = TakeScratch();
    ids->insert(ids->end(), definition_.template_prefix.begin(), definition_.template_prefix.end());
    size_t done = 0;
    while (const auto match = added_.Find(text, done)) {
      EncodeText(text.substr(done, match->begin - done), scratch.get(), ids);
      ids->push_back(match->id);
      done = match->end;
    }
    EncodeText(text.substr(done), scratch.get(), ids);
    ids->insert(ids->end(), definition_.template_suffix.begin(), definition_.template_suffix.end());
    GiveScratch(std::move(scratch));
  }

  std::string Decode(std::span<const int32_t> ids) const override {
    std::string text;
    bool at_start =
        definition_.kind == BpeDefinition::Kind::kSentencePiece && definition_.prefix_space;
    for (const int32_t id : ids) {
      if (!IsToken(id)) continue;
      const std::string& bytes = definition_.tokens[id];
      const bool drop_space = at_start && !bytes.empty() && bytes[0] == ' ';
      at_start = at_start && added_.Holds(id);
      text.append(bytes, drop_space ? 1 : 0);
    }
    return text;
  }

  std::string TokenBytes(int32_t id) const override {
    return IsToken(id) ? definition_.tokens[id] : std::string();
  }
  bool IsToken(int32_t id) const override {
    return id >= 0 && id < vocab_size() && definition_.present[id];
  }
  int64_t vocab_size() const override { return static_cast<int64_t>(definition_.tokens.size()); }
  std::optional<int32_t> end_of_text() const override { return definition_.end_of_text; }
  std::optional<int32_t> bos() const override { return definition_.bos; }
  bool adds_prefix_space() const override { return definition_.prefix_space; }
  bool adds_bos() const override {
    return definition_.bos.has_value() && !definition_.template_prefix.empty() &&
           definition_.template_prefix[0] == *definition_.bos;
  }
  std::string hash() const override;
  std::string Describe() const override;
  Status Save(const std::string& path) const override {
    return WriteTokenizerJson(definition_, path);
  }

 private:
  // What one Encode call works in; kept from call to call.
  struct Scratch {
    BpeMerger::Scratch merge;
    WordCache cache;
    std::vector<int32_t> parts;  // ids of the parts of a word
    std::string normalized, prefixed;
    std::array<size_t, kPiecesABlock> ends;
  };

  std::unique_ptr<Scratch> TakeScratch() const {
    const std::lock_guard lock(mutex_);
    if (free_scratch_.empty()) return std::make_unique<Scratch>();
    std::unique_ptr<Scratch> scratch = std::move(free_scratch_.back());
    free_scratch_.pop_back();
    return scratch;
  }
  void GiveScratch(std::unique_ptr<Scratch> scratch) const {
    const std::lock_guard lock(mutex_);
    free_scratch_.push_back(std::move(scratch));
  }

  void EncodeText(std::string_view text, Scratch* scratch, std::vector<int32_t>* ids) const;
  void EncodeValid(std::string_view text, Scratch* scratch, std::vector<int32_t>* ids) const;
  void EncodeStage(std::string_view text, size_t stage, Scratch* scratch,
                   std::vector<int32_t>* ids) const;
  void EncodeWords(std::string_view text, const PreTokenizer& words, Scratch* scratch,
                   std::vector<int32_t>* ids) const;
  void MergeWord(std::string_view word, Scratch* scratch) const;
  void MergeParts(std::string_view word, Scratch* scratch) const;
  void MergePart(std::string_view part, const char* word_end, Scratch* scratch) const;
  void MergeBytes(std::string_view bytes, Scratch* scratch) const;
  void SymbolsOfCharacters(std::string_view word, std::vector<int32_t>* symbols) const;

  BpeDefinition definition_;
  std::vector<std::unique_ptr<PreTokenizer>> stages_;
  BpeMerger merger_;
  BpeBorders borders_;  // of words that are merged from bytes
  AddedTokenFinder added_;
  TokenIndex index_;
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<Scratch>> free_scratch_;  // at most one a concurrent caller
};

void BpeTokenizer::EncodeText(std::string_view text, Scratch* scratch,
                              std::vector<int32_t>* ids) const {
  if (text.empty()) return;
  const bool sentence_piece = definition_.kind == BpeDefinition::Kind::kSentencePiece;
  if (definition_.prefix_space && (sentence_piece || text[0] != ' ')) {
    std::string prefixed = std::move(scratch->prefixed);
    prefixed.assign(1, ' ');
    prefixed.append(text);
    ForEachUtf8Segment(
        prefixed, [&](std::string_view valid) { EncodeValid(valid, scratch, ids); },
        [&](uint8_t byte) {
          if (definition_.byte_ids[byte] >= 0) ids->push_back(definition_.byte_ids[byte]);
        });
    scratch->prefixed = std::move(prefixed);
    return;
  }
  ForEachUtf8Segment(
      text, [&](std::string_view valid) { EncodeValid(valid, scratch, ids); },
      [&](uint8_t byte) {
        if (definition_.byte_ids[byte] >= 0) ids->push_back(definition_.byte_ids[byte]);
      });
}

void BpeTokenizer::EncodeValid(std::string_view text, Scratch* scratch,
                               std::vector<int32_t>* ids) const {
  if (!definition_.nfc) return EncodeStage(text, 0, scratch, ids);
  std::string buffer = std::move(scratch->normalized);
  EncodeStage(NormalizeNfc(text, &buffer), 0, scratch, ids);
  scratch->normalized = std::move(buffer);
}

void BpeTokenizer::EncodeStage(std::string_view text, size_t stage, Scratch* scratch,
                               std::vector<int32_t>* ids) const {
  if (stage == stages_.size()) {  // no pre-tokenisation at all
    MergeWord(text, scratch);
    ids->insert(ids->end(), scratch->merge.symbols.begin(), scratch->merge.symbols.end());
    return;
  }
  if (stage + 1 == stages_.size()) return EncodeWords(text, *stages_[stage], scratch, ids);
  std::vector<size_t> ends(kPiecesABlock);
  size_t begin = 0, piece = 0;
  while (const size_t count = stages_[stage]->Split(text, &begin, ends)) {
    for (size_t i = 0; i < count; ++i) {
      EncodeStage(text.substr(piece, ends[i] - piece), stage + 1, scratch, ids);
      piece = ends[i];
    }
  }
}

void BpeTokenizer::EncodeWords(std::string_view text, const PreTokenizer& words, Scratch* scratch,
                               std::vector<int32_t>* ids) const {
  const char* const text_end = text.data() + text.size();
  std::array<int32_t, kPiecesABlock * WordCache::kIdsMax> out;
  size_t begin = 0, piece = 0;
  while (const size_t count = words.Split(text, &begin, scratch->ends)) {
    size_t filled = 0;
    for (size_t i = 0; i < count; ++i) {
      const std::string_view word(text.data() + piece, scratch->ends[i] - piece);
      piece = scratch->ends[i];
      if (word.size() <= WordCache::kBytesMax) {
        const WordCache::Key key = WordCache::MakeKey(word, text_end);
        WordCache::Entry& entry = scratch->cache.At(key);
        if (entry.Is(key)) {
          std::memcpy(&out[filled], entry.ids, sizeof(entry.ids));
          filled += entry.count;
          continue;
        }
        MergeWord(word, scratch);
        entry.Set(key, scratch->merge.symbols);
      } else {
        MergeWord(word, scratch);
      }
      ids->insert(ids->end(), out.begin(), out.begin() + filled);
      filled = 0;
      ids->insert(ids->end(), scratch->merge.symbols.begin(), scratch->merge.symbols.end());
    }
    ids->insert(ids->end(), out.begin(), out.begin() + filled);
  }
}

// Leaves the ids of `word` in scratch->merge.symbols.
void BpeTokenizer::MergeWord(std::string_view word, Scratch* scratch) const {
  std::vector<int32_t>& symbols = scratch->merge.symbols;
  symbols.clear();
  if (definition_.whole_words_first) {
    const int32_t id = index_.Find(word);
    if (id >= 0) {
      symbols.push_back(id);
      return;
    }
  }
  if (definition_.kind == BpeDefinition::Kind::kSentencePiece) {
    SymbolsOfCharacters(word, &symbols);
    merger_.Merge(&scratch->merge);
  } else if (borders_.defined()) {
    MergeParts(word, scratch);
  } else {
    MergeBytes(word, scratch);
  }
}

void BpeTokenizer::MergeBytes(std::string_view bytes, Scratch* scratch) const {
  std::vector<int32_t>& symbols = scratch->merge.symbols;
  symbols.clear();
  symbols.reserve(bytes.size());
  for (const char c : bytes) {
    const int32_t id = definition_.byte_ids[static_cast<uint8_t>(c)];
    if (id >= 0) symbols.push_back(id);
  }
  merger_.Merge(&scratch->merge);
}

// Cuts at borders that no merge can cross: a part is short, and comes again more often than a word.
void BpeTokenizer::MergeParts(std::string_view word, Scratch* scratch) const {
  scratch->parts.clear();
  const char* const end = word.data() + word.size();
  const char* part = word.data();
  for (const char* at = part; end - at >= 6;) {
    if (!BpeBorders::IsThreeBytes(*at)) {
      ++at;  // bytes inside other characters are no leads
      continue;
    }
    at += 3;
    if (!BpeBorders::IsThreeBytes(*at) || borders_.MayCross(at)) continue;
    MergePart({part, static_cast<size_t>(at - part)}, end, scratch);
    part = at;
  }
  if (part == word.data()) return MergeBytes(word, scratch);
  MergePart({part, static_cast<size_t>(end - part)}, end, scratch);
  scratch->merge.symbols.swap(scratch->parts);
}

void BpeTokenizer::MergePart(std::string_view part, const char* word_end, Scratch* scratch) const {
  std::vector<int32_t>& ids = scratch->parts;
  WordCache::Entry* entry = nullptr;
  WordCache::Key key{};
  if (part.size() <= WordCache::kBytesMax) {
    key = WordCache::MakeKey(part, word_end);
    key.high |= WordCache::kPart;
    entry = &scratch->cache.At(key);
    if (entry->Is(key)) {
      ids.insert(ids.end(), entry->ids, entry->ids + entry->count);
      return;
    }
  }
  MergeBytes(part, scratch);
  if (entry != nullptr) entry->Set(key, scratch->merge.symbols);
  ids.insert(ids.end(), scratch->merge.symbols.begin(), scratch->merge.symbols.end());
}

// SentencePiece starts from characters; one that is no piece falls back to its bytes.
void BpeTokenizer::SymbolsOfCharacters(std::string_view word, std::vector<int32_t>* symbols) const {
  size_t length = 0;
  for (size_t i = 0; i < word.size(); i += length) {
    const auto lead = static_cast<uint8_t>(word[i]);
    length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    const std::string_view character = word.substr(i, length);
    const int32_t id = index_.Find(character);
    if (id >= 0) {
      symbols->push_back(id);
      continue;
    }
    const bool bytes_known = std::all_of(character.begin(), character.end(), [&](char c) {
      return definition_.byte_ids[static_cast<uint8_t>(c)] >= 0;
    });
    if (bytes_known) {
      for (const char c : character) {
        symbols->push_back(definition_.byte_ids[static_cast<uint8_t>(c)]);
      }
    } else if (definition_.unknown_id >= 0) {
      symbols->push_back(definition_.unknown_id);
    }
  }
}

std::string BpeTokenizer::hash() const {
  ContentHasher hasher;
  const auto number = [&](int64_t value) { hasher.Update(static_cast<uint64_t>(value)); };
  const auto bytes = [&](const std::string& text) {
    number(static_cast<int64_t>(text.size()));
    hasher.Update(std::string_view(text));
  };
  const BpeDefinition& d = definition_;
  number(static_cast<int64_t>(d.kind));
  number(d.nfc + 2 * d.prefix_space + 4 * d.whole_words_first);
  number(d.unknown_id);
  number(vocab_size());
  for (size_t id = 0; id < d.tokens.size(); ++id) {
    number(d.present[id]);
    bytes(d.tokens[id]);
  }
  std::vector<BpeMerge> merges = d.merges;
  std::sort(merges.begin(), merges.end(), [](const BpeMerge& a, const BpeMerge& b) {
    return std::tie(a.rank, a.left, a.right) < std::tie(b.rank, b.left, b.right);
  });
  number(static_cast<int64_t>(merges.size()));
  for (const BpeMerge& merge : merges) {
    number(merge.left);
    number(merge.right);
  }
  for (const SplitStage& stage : d.stages) bytes(stage.pattern);
  for (const AddedToken& token : d.added) {
    number(token.id);
    number(token.left_strip + 2 * token.right_strip + 4 * token.single_word);
  }
  for (const int32_t id : d.template_prefix) number(id);
  number(-1);
  for (const int32_t id : d.template_suffix) number(id);
  number(d.end_of_text.value_or(-1));
  return hasher.Hex();
}

std::string BpeTokenizer::Describe() const {
  std::string line = definition_.kind == BpeDefinition::Kind::kByteLevel
                         ? "byte-level BPE"
                         : "SentencePiece-style BPE with byte fallback";
  line += StrCat(", ", definition_.merges.size(), " merges");
  for (const SplitStage& stage : definition_.stages) {
    const std::string name = NameOfPattern(stage.pattern);
    line += ", pattern " + (name.empty() ? stage.pattern : name);
  }
  if (definition_.nfc) line += ", NFC";
  return line;
}

Status CheckIds(const BpeDefinition& definition, const std::string& place) {
  const auto size = static_cast<int64_t>(definition.tokens.size());
  if (size == 0) return DataLossError(place + ": the vocabulary is empty");
  CHECK_EQ(definition.present.size(), definition.tokens.size());
  const auto valid = [&](int64_t id) { return id >= 0 && id < size && definition.present[id]; };
  for (const BpeMerge& merge : definition.merges) {
    if (!valid(merge.left) || !valid(merge.right) || !valid(merge.result)) {
      return DataLossError(StrCat(place, ": merge ", merge.rank, " names an id that is no token"));
    }
  }
  for (const AddedToken& token : definition.added) {
    if (!valid(token.id)) {
      return DataLossError(StrCat(place, ": added token ", token.id, " is outside the vocabulary"));
    }
    if (token.content.empty()) {
      return DataLossError(StrCat(place, ": added token ", token.id, " has no text"));
    }
  }
  std::vector<int32_t> others = definition.template_prefix;
  others.insert(others.end(), definition.template_suffix.begin(), definition.template_suffix.end());
  if (definition.end_of_text) others.push_back(*definition.end_of_text);
  if (definition.bos) others.push_back(*definition.bos);
  for (const int32_t id : others) {
    if (!valid(id)) return DataLossError(StrCat(place, ": special token ", id, " is no token"));
  }
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> MakeBpeTokenizer(BpeDefinition definition,
                                                    const std::string& place) {
  RETURN_IF_ERROR(CheckIds(definition, place));
  if (definition.kind == BpeDefinition::Kind::kByteLevel) {
    std::vector<bool> is_added(definition.tokens.size());
    for (const AddedToken& token : definition.added) is_added[token.id] = true;
    for (size_t id = 0; id < definition.tokens.size(); ++id) {
      const std::string& bytes = definition.tokens[id];
      if (!definition.present[id] || is_added[id] || bytes.size() != 1) continue;
      definition.byte_ids[static_cast<uint8_t>(bytes[0])] = static_cast<int32_t>(id);
    }
  }
  std::vector<std::unique_ptr<PreTokenizer>> stages;
  for (const SplitStage& stage : definition.stages) {
    auto made = MakePreTokenizer(stage.pattern);
    if (!made.ok()) return made.status().WithContext(place);
    stages.push_back(std::move(made).value());
  }
  return std::unique_ptr<Tokenizer>(
      std::make_unique<BpeTokenizer>(std::move(definition), std::move(stages)));
}

std::vector<BpeMerge> MergesFromRanks(const std::vector<std::string>& tokens,
                                      const std::vector<bool>& usable,
                                      const std::vector<uint32_t>& rank_of_id) {
  const TokenIndex index(tokens, usable);
  std::vector<BpeMerge> merges;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string_view bytes = tokens[id];
    if (!usable[id] || index.Find(bytes) != static_cast<int32_t>(id)) continue;
    for (size_t cut = 1; cut < bytes.size(); ++cut) {
      const int32_t left = index.Find(bytes.substr(0, cut));
      if (left < 0) continue;
      const int32_t right = index.Find(bytes.substr(cut));
      if (right < 0) continue;
      merges.push_back({left, right, static_cast<int32_t>(id), rank_of_id[id]});
    }
  }
  return merges;
}

}  // namespace trireme
