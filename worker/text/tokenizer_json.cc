// Reading of Hugging Face's tokenizer.json.
#include "worker/text/tokenizer_json.h"

#include <simdjson.h>

#include <optional>
#include <unordered_map>

#include "worker/text/byte_level.h"
#include "worker/text/pretokenize.h"
#include "worker/text/tokenizer_files.h"

namespace trireme {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

std::string_view StringOr(const element& value, std::string_view key, std::string_view fallback) {
  std::string_view text;
  return value[key].get(text) == simdjson::SUCCESS ? text : fallback;
}

bool BoolOr(const element& value, std::string_view key, bool fallback) {
  bool flag;
  return value[key].get(flag) == simdjson::SUCCESS ? flag : fallback;
}

// The member `key`, or nothing where it is absent or null.
std::optional<element> Member(const element& value, std::string_view key) {
  element member;
  if (value[key].get(member) != simdjson::SUCCESS || member.is_null()) return std::nullopt;
  return member;
}

// The members of a Sequence, or the one that stands alone.
std::vector<element> Steps(const element& value, std::string_view list_key) {
  array list;
  if (StringOr(value, "type", "") != "Sequence" || value[list_key].get(list) != simdjson::SUCCESS) {
    return {value};
  }
  std::vector<element> steps;
  for (const element step : list) steps.push_back(step);
  return steps;
}

std::string EscapedForRegex(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (std::string_view("\\^$.|?*+()[]{}").find(c) != std::string_view::npos) pattern += '\\';
    pattern += c;
  }
  return pattern;
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (size_t at; (at = text.find(from)) != std::string_view::npos;) {
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return out.append(text);
}

class JsonReader {
 public:
  explicit JsonReader(const std::string& path) : path_(path) {}

  Result<BpeDefinition> Read(const element& root) {
    const auto model = Member(root, "model");
    if (!model || !model->is_object()) return Broken("no model");
    const std::string_view type = StringOr(*model, "type", "BPE");
    if (type != "BPE") return NotBuilt(StrCat("models of type ", type, " (BPE is)"));
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!StringOr(*model, key, "").empty()) return NotBuilt(StrCat("BPE with a ", key));
    }
    if (BoolOr(*model, "byte_fallback", false)) {
      definition_.kind = BpeDefinition::Kind::kSentencePiece;
    }
    definition_.whole_words_first = BoolOr(*model, "ignore_merges", false);
    RETURN_IF_ERROR(ReadNormalizer(root));
    RETURN_IF_ERROR(ReadPreTokenizer(root));
    RETURN_IF_ERROR(ReadVocabulary(*model));
    RETURN_IF_ERROR(ReadMerges(*model));
    RETURN_IF_ERROR(ReadAdded(root));
    RETURN_IF_ERROR(ReadTemplate(root));
    NameEndOfText(&definition_);
    return std::move(definition_);
  }

 private:
  bool byte_level() const { return definition_.kind == BpeDefinition::Kind::kByteLevel; }
  Status Broken(const std::string& what) const { return DataLossError(path_ + ": " + what); }
  Status NotBuilt(const std::string& what) const {
    return NotBuiltError(StrCat(path_, ": ", what, " not built yet"));
  }

  Status ReadNormalizer(const element& root) {
    const auto normalizer = Member(root, "normalizer");
    if (!normalizer) return OkStatus();
    for (const element& step : Steps(*normalizer, "normalizers")) {
      const std::string_view type = StringOr(step, "type", "");
      element from;
      if (type == "NFC") {
        definition_.nfc = true;
      } else if (!byte_level() && type == "Prepend" &&
                 StringOr(step, "prepend", "") == kSpaceMark) {
        definition_.prefix_space = true;
      } else if (!byte_level() && type == "Replace" &&
                 StringOr(step, "content", "") == kSpaceMark &&
                 step["pattern"].get(from) == simdjson::SUCCESS &&
                 StringOr(from, "String", "") == " ") {
        // Spaces are kept as spaces here, in text and tokens alike.
      } else {
        return NotBuilt(StrCat("the normaliser ", type));
      }
    }
    return OkStatus();
  }

  Status ReadPreTokenizer(const element& root) {
    const auto pre_tokenizer = Member(root, "pre_tokenizer");
    bool saw_byte_level = false;
    if (pre_tokenizer) {
      for (const element& step : Steps(*pre_tokenizer, "pretokenizers")) {
        const std::string_view type = StringOr(step, "type", "");
        if (saw_byte_level) return NotBuilt(StrCat("the pre-tokenizer ", type, " after ByteLevel"));
        if (!byte_level()) {
          return NotBuilt(StrCat("the pre-tokenizer ", type, " with byte_fallback"));
        }
        if (type == "ByteLevel") {
          saw_byte_level = true;
          definition_.prefix_space = BoolOr(step, "add_prefix_space", true);
          if (BoolOr(step, "use_regex", true))
            definition_.stages.push_back({PatternByName("gpt2")});
        } else if (type == "Split") {
          RETURN_IF_ERROR(ReadSplit(step));
        } else if (type == "Digits") {
          definition_.stages.push_back(
              {BoolOr(step, "individual_digits", false) ? "\\p{N}" : "\\p{N}+"});
        } else {
          return NotBuilt(StrCat("the pre-tokenizer ", type));
        }
      }
    }
    if (byte_level() && !saw_byte_level) return NotBuilt("BPE that is not byte-level");
    return OkStatus();
  }

  Status ReadSplit(const element& step) {
    element pattern;
    if (step["pattern"].get(pattern) != simdjson::SUCCESS) return Broken("a Split has no pattern");
    const std::string_view regex = StringOr(pattern, "Regex", "");
    const std::string_view text = StringOr(pattern, "String", "");
    if (regex.empty() && text.empty()) return Broken("a Split has an empty pattern");
    const std::string stage = regex.empty() ? EscapedForRegex(text) : std::string(regex);
    const std::string_view behavior = StringOr(step, "behavior", "");
    // Removing what does not match is the same as keeping it when everything matches.
    const bool removes_nothing =
        behavior == "Removed" && BoolOr(step, "invert", false) && !NameOfPattern(stage).empty();
    if (behavior != "Isolated" && !removes_nothing) {
      return NotBuilt(StrCat("a Split that is ", behavior));
    }
    definition_.stages.push_back({stage});
    return OkStatus();
  }

  // What a token of the file stands for.
  std::string BytesOf(std::string_view spelling, int64_t id) {
    if (byte_level()) {
      std::string bytes;
      return ByteLevelDecode(spelling, &bytes) ? bytes : std::string(spelling);
    }
    const auto digit = [](char c) { return c >= '0' && c <= '9' ? c - '0' : c - 'A' + 10; };
    const std::string_view hex = "0123456789ABCDEF";
    if (spelling.size() == 6 && spelling.starts_with("<0x") && spelling[5] == '>' &&
        hex.find(spelling[3]) != hex.npos && hex.find(spelling[4]) != hex.npos) {
      const int byte = digit(spelling[3]) * 16 + digit(spelling[4]);
      definition_.byte_ids[byte] = static_cast<int32_t>(id);
      return std::string(1, static_cast<char>(byte));
    }
    return ReplaceAll(spelling, kSpaceMark, " ");
  }

  Status ReadVocabulary(const element& model) {
    object vocabulary;
    if (model["vocab"].get(vocabulary) != simdjson::SUCCESS)
      return Broken("model.vocab is missing");
    id_of_.reserve(vocabulary.size());
    for (const auto field : vocabulary) {
      int64_t id;
      if (field.value.get(id) != simdjson::SUCCESS) {
        return Broken(StrCat("model.vocab: token \"", field.key, "\" has no integer id"));
      }
      if (!PutToken(id, BytesOf(field.key, id), &definition_)) {
        return Broken(StrCat("model.vocab: id ", id, " of token \"", field.key,
                             "\" stands twice or is out of range"));
      }
      id_of_[field.key] = static_cast<int32_t>(id);
    }
    if (!byte_level()) {
      const auto unknown = id_of_.find(StringOr(model, "unk_token", ""));
      if (unknown != id_of_.end()) definition_.unknown_id = unknown->second;
    }
    return OkStatus();
  }

  Status ReadMerges(const element& model) {
    array merges;
    if (model["merges"].get(merges) != simdjson::SUCCESS) return Broken("model.merges is missing");
    std::string joined;
    for (const element merge : merges) {
      const std::string place = StrCat("model.merges[", definition_.merges.size(), "]");
      std::string_view left, right, line;
      array pair;
      if (merge.get(line) == simdjson::SUCCESS) {  // "a b", before tokenizers 0.20
        const size_t space = line.find(' ');
        left = line.substr(0, space);
        right = space == line.npos ? "" : line.substr(space + 1);
      } else if (merge.get(pair) != simdjson::SUCCESS || pair.size() != 2 ||
                 pair.at(0).get(left) != simdjson::SUCCESS ||
                 pair.at(1).get(right) != simdjson::SUCCESS) {
        return Broken(place + ": expected two tokens");
      }
      joined.assign(left).append(right);
      const auto left_id = id_of_.find(left), right_id = id_of_.find(right);
      const auto result = id_of_.find(joined);
      if (left_id == id_of_.end() || right_id == id_of_.end() || result == id_of_.end()) {
        return Broken(StrCat(place, ": \"", left.substr(0, 40), "\" and \"", right.substr(0, 40),
                             "\" name a token that the vocabulary does not have"));
      }
      definition_.merges.push_back({left_id->second, right_id->second, result->second,
                                    static_cast<uint32_t>(definition_.merges.size())});
    }
    return OkStatus();
  }

  Status ReadAdded(const element& root) {
    array list;
    if (root["added_tokens"].get(list) != simdjson::SUCCESS) return OkStatus();
    for (const element entry : list) {
      int64_t id;
      AddedToken token;
      token.content = StringOr(entry, "content", "");
      if (entry["id"].get(id) != simdjson::SUCCESS || token.content.empty()) {
        return Broken("added_tokens: an entry without id or content");
      }
      const auto known = id_of_.find(token.content);
      const bool in_vocabulary = known != id_of_.end() && known->second == id;
      if (in_vocabulary) {
        definition_.tokens[id] = token.content;
      } else if (!PutToken(id, token.content, &definition_)) {
        return Broken(StrCat("added_tokens: id ", id, " of \"", token.content,
                             "\" is taken or out of range"));
      }
      token.id = static_cast<int32_t>(id);
      token.special = BoolOr(entry, "special", true);
      token.left_strip = BoolOr(entry, "lstrip", false);
      token.right_strip = BoolOr(entry, "rstrip", false);
      token.single_word = BoolOr(entry, "single_word", false);
      definition_.added.push_back(std::move(token));
    }
    return OkStatus();
  }

  Status ReadTemplate(const element& root) {
    const auto processor = Member(root, "post_processor");
    if (!processor) return OkStatus();
    for (const element& step : Steps(*processor, "processors")) {
      const std::string_view type = StringOr(step, "type", "");
      if (type == "TemplateProcessing") {
        RETURN_IF_ERROR(ReadTemplateStep(step));
      } else if (type != "ByteLevel") {
        return NotBuilt(StrCat("the post-processor ", type));
      }
    }
    return OkStatus();
  }

  Status ReadTemplateStep(const element& step) {
    array pieces;
    if (step["single"].get(pieces) != simdjson::SUCCESS) {
      return Broken("post_processor: a template without \"single\"");
    }
    bool after_text = false;
    for (const element piece : pieces) {
      element special;
      if (piece["SpecialToken"].get(special) != simdjson::SUCCESS) {
        after_text = true;
        continue;
      }
      array ids;
      const std::string name(StringOr(special, "id", ""));
      if (step["special_tokens"][name]["ids"].get(ids) != simdjson::SUCCESS) {
        return Broken(StrCat("post_processor: \"", name, "\" has no ids"));
      }
      for (const element id_element : ids) {
        int64_t id;
        if (id_element.get(id) != simdjson::SUCCESS || id < 0 || id >= kVocabularySizeMax) {
          return Broken(StrCat("post_processor: \"", name, "\" has an id that is no token"));
        }
        auto& list = after_text ? definition_.template_suffix : definition_.template_prefix;
        list.push_back(static_cast<int32_t>(id));
      }
    }
    if (!definition_.template_prefix.empty()) definition_.bos = definition_.template_prefix[0];
    return OkStatus();
  }

  const std::string& path_;
  BpeDefinition definition_;
  std::unordered_map<std::string_view, int32_t> id_of_;  // views into the parsed document
};

}  // namespace

Result<BpeDefinition> ReadTokenizerJson(const std::string& path, const std::string& content) {
  simdjson::dom::parser parser;
  element root;
  if (const auto error = parser.parse(content).get(root)) {
    return DataLossError(StrCat(path, ": ", simdjson::error_message(error)));
  }
  if (!root.is_object()) return DataLossError(path + ": expected a json object");
  return JsonReader(path).Read(root);
}

void ReadTokenizerConfig(const std::string& content, BpeDefinition* definition) {
  simdjson::dom::parser parser;
  element root;
  if (parser.parse(content).get(root) != simdjson::SUCCESS || !root.is_object()) return;
  const auto find = [&](std::string_view key) -> std::optional<int32_t> {
    const auto member = Member(root, key);
    std::string_view name;
    if (!member) return std::nullopt;
    if (member->get(name) != simdjson::SUCCESS) name = StringOr(*member, "content", "");
    for (const AddedToken& token : definition->added) {
      if (token.content == name) return token.id;
    }
    return std::nullopt;
  };
  if (!definition->end_of_text) definition->end_of_text = find("eos_token");
  if (!definition->bos) definition->bos = find("bos_token");
}

}  // namespace trireme
