#include "worker/text/tokenizer_files.h"

#include <simdjson.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <unordered_map>

#include "worker/text/byte_level.h"
#include "worker/text/byte_stream.h"
#include "worker/text/pretokenize.h"

namespace trireme {
namespace {

constexpr uintmax_t kFileBytesMax = uintmax_t{1} << 30;

// Decodes padded base64; false for anything else.
bool DecodeBase64(std::string_view text, std::string* bytes) {
  static const auto values = [] {
    std::array<int8_t, 256> table;
    table.fill(-1);
    const char* digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (int i = 0; i < 64; ++i) table[static_cast<uint8_t>(digits[i])] = static_cast<int8_t>(i);
    return table;
  }();
  bytes->clear();
  if (text.empty() || text.size() % 4 != 0) return false;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  for (size_t i = 0; i < text.size(); i += 4) {
    uint32_t group = 0;
    for (size_t j = 0; j < 4; ++j) {
      const bool is_padding = i + j >= text.size() - padding;
      const int8_t value = is_padding ? 0 : values[static_cast<uint8_t>(text[i + j])];
      if (value < 0) return false;
      group = group << 6 | static_cast<uint32_t>(value);
    }
    bytes->push_back(static_cast<char>(group >> 16));
    bytes->push_back(static_cast<char>(group >> 8));
    bytes->push_back(static_cast<char>(group));
  }
  bytes->resize(bytes->size() - padding);
  return true;
}

// A family of published tiktoken vocabularies.
struct Family {
  const char* pattern;             // a name of PatternByName
  std::vector<const char*> names;  // what its files are called, in part
  int64_t ranks;                   // how many tokens it has
  std::vector<std::pair<int64_t, std::string>> specials;
  const char* bos = nullptr;
  bool nfc = false;
};

const std::vector<Family>& Families() {
  static const auto* families = [] {
    auto* list = new std::vector<Family>{
        {"cl100k",
         {"cl100k"},
         100256,
         {{100257, "<|endoftext|>"},
          {100258, "<|fim_prefix|>"},
          {100259, "<|fim_middle|>"},
          {100260, "<|fim_suffix|>"},
          {100276, "<|endofprompt|>"}}},
        {"o200k", {"o200k"}, 199998, {{199999, "<|endoftext|>"}, {200018, "<|endofprompt|>"}}},
        {"gpt2", {"gpt2", "r50k", "p50k"}, 50256, {{50256, "<|endoftext|>"}}},
        {"qwen",
         {"qwen"},
         151643,
         {{151643, "<|endoftext|>"}, {151644, "<|im_start|>"}, {151645, "<|im_end|>"}},
         nullptr,
         true},
    };
    Family llama3{"llama3", {"llama3", "llama-3", "llama_3"}, 128000, {}, "<|begin_of_text|>"};
    const char* named[] = {"<|begin_of_text|>",   "<|end_of_text|>",   "", "",          "", "",
                           "<|start_header_id|>", "<|end_header_id|>", "", "<|eot_id|>"};
    int reserved = 0;
    for (int i = 0; i < 256; ++i) {
      const bool has_name = i < 10 && named[i][0] != '\0';
      llama3.specials.emplace_back(
          128000 + i, has_name ? named[i] : StrCat("<|reserved_special_token_", reserved++, "|>"));
    }
    list->push_back(std::move(llama3));
    return list;
  }();
  return *families;
}

std::string LowerCase(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c | 0x20) : c;
  return text;
}

const Family* FamilyOfPath(const std::string& path) {
  const std::filesystem::path parts(path);
  for (const std::string& name :
       {LowerCase(parts.filename().string()), LowerCase(parts.parent_path().filename().string())}) {
    for (const Family& family : Families()) {
      for (const char* known : family.names) {
        if (name.find(known) != std::string::npos) return &family;
      }
    }
  }
  return nullptr;
}

const Family* FamilyOfPattern(const std::string& pattern) {
  for (const Family& family : Families()) {
    if (pattern == family.pattern) return &family;
  }
  return nullptr;
}

// Ranks become merges once all tokens are there.
void MergeByRank(BpeDefinition* definition) {
  std::vector<uint32_t> ranks(definition->tokens.size());
  std::iota(ranks.begin(), ranks.end(), 0u);
  definition->merges = MergesFromRanks(definition->tokens, definition->present, ranks);
  definition->whole_words_first = true;
}

Status AddRank(const std::string& place, std::string_view encoded, int64_t rank,
               BpeDefinition* definition) {
  std::string bytes;
  if (!DecodeBase64(encoded, &bytes)) {
    return DataLossError(StrCat(place, ": \"", encoded.substr(0, 40), "\" is not base64"));
  }
  if (!PutToken(rank, bytes, definition)) {
    return DataLossError(StrCat(place, ": rank ", rank, " stands twice or is out of range"));
  }
  return OkStatus();
}

void AddSpecial(int64_t id, const std::string& content, BpeDefinition* definition) {
  if (!PutToken(id, content, definition)) return;
  AddedToken token;
  token.id = static_cast<int32_t>(id);
  token.content = content;
  definition->added.push_back(std::move(token));
}

}  // namespace

Result<std::string> ReadVocabularyFile(const std::string& path) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return DataLossError(StrCat(path, ": ", error.message()));
  if (size > kFileBytesMax) {
    return DataLossError(StrCat(path, ": ", size, " bytes, no vocabulary is larger than 1 GiB"));
  }
  std::ifstream file(path, std::ios::binary);
  std::string content(size, '\0');
  file.read(content.data(), static_cast<std::streamsize>(size));
  if (!file) return DataLossError(path + ": cannot be read");
  content.erase(0, content.size() - WithoutByteOrderMark(content).size());
  return content;
}

bool PutToken(int64_t id, std::string_view bytes, BpeDefinition* definition) {
  if (id < 0 || id >= kVocabularySizeMax) return false;
  if (id >= static_cast<int64_t>(definition->tokens.size())) {
    definition->tokens.resize(id + 1);
    definition->present.resize(id + 1);
  }
  if (definition->present[id]) return false;
  definition->present[id] = true;
  definition->tokens[id] = bytes;
  return true;
}

void NameEndOfText(BpeDefinition* definition) {
  if (definition->end_of_text) return;
  for (const char* name : {"<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>",
                           "<\xef\xbd\x9c"
                           "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"}) {
    for (const AddedToken& token : definition->added) {
      if (token.content != name) continue;
      definition->end_of_text = token.id;
      return;
    }
  }
}

Result<BpeDefinition> ReadVocabularyAndMerges(const std::string& vocabulary_path,
                                              const std::string& merges_path,
                                              const std::string& pattern) {
  ASSIGN_OR_RETURN(const std::string vocabulary, ReadVocabularyFile(vocabulary_path));
  ASSIGN_OR_RETURN(const std::string merges, ReadVocabularyFile(merges_path));
  simdjson::dom::parser parser;
  simdjson::dom::object root;
  if (const auto error = parser.parse(vocabulary).get(root)) {
    return DataLossError(StrCat(vocabulary_path, ": expected an object of tokens and ids: ",
                                simdjson::error_message(error)));
  }
  BpeDefinition definition;
  std::unordered_map<std::string_view, int32_t> id_of;
  for (const auto field : root) {
    int64_t id;
    if (field.value.get(id) != simdjson::SUCCESS) {
      return DataLossError(
          StrCat(vocabulary_path, ": token \"", field.key, "\" has no integer id"));
    }
    std::string bytes;
    if (!ByteLevelDecode(field.key, &bytes)) bytes = field.key;
    if (!PutToken(id, bytes, &definition)) {
      return DataLossError(StrCat(vocabulary_path, ": id ", id, " of token \"", field.key,
                                  "\" stands twice or is out of range"));
    }
    id_of[field.key] = static_cast<int32_t>(id);
  }
  std::vector<bool> reachable(definition.tokens.size());
  for (size_t id = 0; id < reachable.size(); ++id) {
    reachable[id] = definition.tokens[id].size() == 1;
  }
  std::string_view rest = merges;
  std::string joined;
  for (size_t line_number = 1; !rest.empty(); ++line_number) {
    const size_t line_end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, line_end);
    rest.remove_prefix(std::min(line_end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || line.starts_with("#version")) continue;
    const size_t space = line.find(' ');
    const std::string place = StrCat(merges_path, ":", line_number);
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      return DataLossError(
          StrCat(place, ": expected two tokens, got \"", line.substr(0, 60), "\""));
    }
    joined.assign(line.substr(0, space)).append(line.substr(space + 1));
    const auto left = id_of.find(line.substr(0, space));
    const auto right = id_of.find(line.substr(space + 1));
    const auto result = id_of.find(joined);
    if (left == id_of.end() || right == id_of.end() || result == id_of.end()) {
      return DataLossError(StrCat(place, ": \"", line.substr(0, 60),
                                  "\" names a token that the vocabulary does not have"));
    }
    definition.merges.push_back({left->second, right->second, result->second,
                                 static_cast<uint32_t>(definition.merges.size())});
    reachable[result->second] = true;
  }
  for (size_t id = 0; id < reachable.size(); ++id) {
    if (!definition.present[id] || reachable[id] || definition.tokens[id].empty()) continue;
    AddedToken token;
    token.id = static_cast<int32_t>(id);
    token.content = definition.tokens[id];
    definition.added.push_back(std::move(token));
  }
  definition.stages.push_back({PatternByName(pattern.empty() ? "gpt2" : pattern)});
  NameEndOfText(&definition);
  return definition;
}

bool LooksLikeTiktoken(std::string_view content) {
  const std::string_view line = content.substr(0, content.find('\n'));
  const size_t space = line.find(' ');
  std::string bytes;
  return space != std::string_view::npos && space + 1 < line.size() &&
         DecodeBase64(line.substr(0, space), &bytes) && line[space + 1] >= '0' &&
         line[space + 1] <= '9';
}

Result<BpeDefinition> ReadTiktokenText(const std::string& path, std::string_view content,
                                       const std::string& pattern) {
  const Family* family = pattern.empty() ? FamilyOfPath(path) : FamilyOfPattern(pattern);
  if (pattern.empty() && family == nullptr) {
    return InvalidArgumentError(
        path +
        ": a tiktoken file without a pattern, and none is known by its name; give --pattern "
        "gpt2, cl100k, o200k, llama3, qwen or a regular expression");
  }
  BpeDefinition definition;
  size_t line_number = 0;
  int64_t count = 0;
  while (!content.empty()) {
    const size_t line_end = std::min(content.find('\n'), content.size());
    std::string_view line = content.substr(0, line_end);
    content.remove_prefix(std::min(line_end + 1, content.size()));
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::string place = StrCat(path, ":", line_number);
    const size_t space = line.find(' ');
    int64_t rank = -1;
    if (space != std::string_view::npos) {
      const auto parsed = std::from_chars(line.data() + space + 1, line.data() + line.size(), rank);
      if (parsed.ec != std::errc() || parsed.ptr != line.data() + line.size()) rank = -1;
    }
    if (rank < 0) {
      return DataLossError(
          StrCat(place, ": expected base64 and a rank, got \"", line.substr(0, 60), "\""));
    }
    RETURN_IF_ERROR(AddRank(place, line.substr(0, space), rank, &definition));
    ++count;
  }
  MergeByRank(&definition);
  if (family != nullptr && count == family->ranks) {
    for (const auto& [id, special] : family->specials) AddSpecial(id, special, &definition);
    if (family->bos != nullptr) {
      definition.bos = static_cast<int32_t>(family->specials[0].first);
      definition.template_prefix = {*definition.bos};
    }
  }
  definition.nfc = family != nullptr && family->nfc;
  definition.stages.push_back({PatternByName(pattern.empty() ? family->pattern : pattern)});
  NameEndOfText(&definition);
  return definition;
}

Result<BpeDefinition> ReadTiktokenJson(const std::string& path, const std::string& content,
                                       const std::string& pattern) {
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (const auto error = parser.parse(content).get(root)) {
    return DataLossError(StrCat(path, ": ", simdjson::error_message(error)));
  }
  std::string_view own_pattern, ranks;
  simdjson::dom::object specials;
  if (root["bpe_ranks"].get(ranks) != simdjson::SUCCESS ||
      root["special_tokens"].get(specials) != simdjson::SUCCESS ||
      root["pat_str"].get(own_pattern) != simdjson::SUCCESS) {
    return DataLossError(path + ": expected pat_str, special_tokens and bpe_ranks");
  }
  BpeDefinition definition;
  // Lines of "! FIRST_RANK TOKEN TOKEN ...".
  while (!ranks.empty()) {
    const size_t line_end = std::min(ranks.find('\n'), ranks.size());
    std::string_view line = ranks.substr(0, line_end);
    ranks.remove_prefix(std::min(line_end + 1, ranks.size()));
    int64_t rank = -1;
    for (int word_number = 0; !line.empty(); ++word_number) {
      const size_t word_end = std::min(line.find(' '), line.size());
      const std::string_view word = line.substr(0, word_end);
      line.remove_prefix(std::min(word_end + 1, line.size()));
      if (word_number == 0) continue;
      if (word_number == 1) {
        const auto parsed = std::from_chars(word.data(), word.data() + word.size(), rank);
        if (parsed.ec != std::errc() || rank < 0) {
          return DataLossError(StrCat(path,
                                      ": bpe_ranks: expected the first rank of a line, got \"",
                                      word.substr(0, 40), "\""));
        }
        continue;
      }
      RETURN_IF_ERROR(AddRank(path + ": bpe_ranks", word, rank++, &definition));
    }
  }
  MergeByRank(&definition);
  for (const auto field : specials) {
    int64_t id;
    if (field.value.get(id) != simdjson::SUCCESS || field.key.empty()) {
      return DataLossError(StrCat(path, ": special token \"", field.key, "\" has no integer id"));
    }
    AddSpecial(id, std::string(field.key), &definition);
  }
  definition.stages.push_back(
      {pattern.empty() ? std::string(own_pattern) : PatternByName(pattern)});
  NameEndOfText(&definition);
  return definition;
}

Result<BpeDefinition> ReadLlama2c(const std::string& path, std::string_view content) {
  const auto truncated = [&] {
    return DataLossError(path + ": not a tokenizer.bin of llama2.c, or a truncated one");
  };
  if (content.size() < sizeof(int32_t)) return truncated();
  content.remove_prefix(sizeof(int32_t));
  BpeDefinition definition;
  definition.kind = BpeDefinition::Kind::kSentencePiece;
  definition.prefix_space = true;
  std::vector<float> scores;
  while (!content.empty()) {
    float score;
    int32_t size;
    if (content.size() < sizeof(score) + sizeof(size)) return truncated();
    std::memcpy(&score, content.data(), sizeof(score));
    std::memcpy(&size, content.data() + sizeof(score), sizeof(size));
    content.remove_prefix(sizeof(score) + sizeof(size));
    if (size < 0 || static_cast<size_t>(size) > content.size() || !std::isfinite(score)) {
      return truncated();
    }
    const auto id = static_cast<int64_t>(scores.size());
    if (!PutToken(id, content.substr(0, size), &definition)) return truncated();
    scores.push_back(score);
    content.remove_prefix(size);
  }
  // SentencePiece's layout: <unk>, <s>, </s>, 256 byte tokens, pieces.
  constexpr int kFirstByte = 3, kFirstPiece = kFirstByte + 256;
  if (scores.size() < kFirstPiece) return truncated();
  std::vector<bool> usable(scores.size(), true);
  const char* specials[] = {"<unk>", "<s>", "</s>"};
  for (int32_t id = 0; id < kFirstPiece; ++id) {
    usable[id] = false;
    if (id < kFirstByte) {
      AddedToken token;
      token.id = id;
      token.content = definition.tokens[id] = specials[id];
      definition.added.push_back(std::move(token));
    } else {
      definition.tokens[id] = std::string(1, static_cast<char>(id - kFirstByte));
      definition.byte_ids[id - kFirstByte] = id;
    }
  }
  std::vector<float> descending(scores.begin() + kFirstPiece, scores.end());
  std::sort(descending.begin(), descending.end(), std::greater<>());
  descending.erase(std::unique(descending.begin(), descending.end()), descending.end());
  std::vector<uint32_t> ranks(scores.size());
  for (size_t id = kFirstPiece; id < scores.size(); ++id) {
    ranks[id] = static_cast<uint32_t>(
        std::lower_bound(descending.begin(), descending.end(), scores[id], std::greater<>()) -
        descending.begin());
  }
  definition.merges = MergesFromRanks(definition.tokens, usable, ranks);
  definition.unknown_id = 0;
  definition.bos = 1;
  definition.end_of_text = 2;
  definition.template_prefix = {1};
  return definition;
}

}  // namespace trireme
