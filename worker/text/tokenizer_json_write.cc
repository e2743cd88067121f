// Writing of Hugging Face's tokenizer.json.
#include <algorithm>
#include <cstdio>
#include <tuple>

#include "cluster/base/json.h"
#include "storage/output_file.h"
#include "worker/text/byte_level.h"
#include "worker/text/pretokenize.h"
#include "worker/text/tokenizer_json.h"

namespace trireme {
namespace {

std::string SpellPiece(std::string_view bytes) {
  std::string spelling;
  for (const char c : bytes) {
    if (c == ' ') {
      spelling += kSpaceMark;
    } else {
      spelling += c;
    }
  }
  return spelling;
}

// How each token is spelled in the file; "" for ids that are no token.
std::vector<std::string> Spellings(const BpeDefinition& d) {
  std::vector<std::string> spellings(d.tokens.size());
  const bool byte_level = d.kind == BpeDefinition::Kind::kByteLevel;
  for (size_t id = 0; id < spellings.size(); ++id) {
    if (!d.present[id]) continue;
    spellings[id] = byte_level ? ByteLevelEncode(d.tokens[id]) : SpellPiece(d.tokens[id]);
  }
  if (!byte_level) {
    for (int byte = 0; byte < 256; ++byte) {
      if (d.byte_ids[byte] < 0) continue;
      char spelling[8];
      std::snprintf(spelling, sizeof(spelling), "<0x%02X>", byte);
      spellings[d.byte_ids[byte]] = spelling;
    }
  }
  for (const AddedToken& token : d.added) spellings[token.id] = token.content;
  return spellings;
}

Json AddedTokens(const BpeDefinition& d) {
  Json list = Json::array();
  std::vector<AddedToken> added = d.added;
  std::sort(added.begin(), added.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  for (const AddedToken& token : added) {
    list.push_back({{"id", token.id},
                    {"content", token.content},
                    {"single_word", token.single_word},
                    {"lstrip", token.left_strip},
                    {"rstrip", token.right_strip},
                    {"normalized", false},
                    {"special", token.special}});
  }
  return list;
}

Json ByteLevel(bool prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", prefix_space},
          {"trim_offsets", true},
          {"use_regex", use_regex}};
}

Json PreTokenizerOf(const BpeDefinition& d) {
  if (d.kind == BpeDefinition::Kind::kSentencePiece) return nullptr;
  if (d.stages.size() == 1 && NameOfPattern(d.stages[0].pattern) == "gpt2") {
    return ByteLevel(d.prefix_space, true);
  }
  Json steps = Json::array();
  for (const SplitStage& stage : d.stages) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", stage.pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  steps.push_back(ByteLevel(d.prefix_space, false));
  return {{"type", "Sequence"}, {"pretokenizers", steps}};
}

Json NormalizerOf(const BpeDefinition& d) {
  if (d.kind == BpeDefinition::Kind::kByteLevel) {
    return d.nfc ? Json{{"type", "NFC"}} : Json(nullptr);
  }
  Json steps = Json::array();
  if (d.prefix_space) steps.push_back({{"type", "Prepend"}, {"prepend", kSpaceMark}});
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpaceMark}});
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

Json DecoderOf(const BpeDefinition& d) {
  if (d.kind == BpeDefinition::Kind::kByteLevel) return ByteLevel(false, true);
  Json steps = Json::array();
  steps.push_back({{"type", "Replace"}, {"pattern", {{"String", kSpaceMark}}}, {"content", " "}});
  steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (d.prefix_space) {
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  return {{"type", "Sequence"}, {"decoders", steps}};
}

Json PostProcessorOf(const BpeDefinition& d, const std::vector<std::string>& spellings) {
  if (d.template_prefix.empty() && d.template_suffix.empty()) {
    return d.kind == BpeDefinition::Kind::kByteLevel ? ByteLevel(false, true) : Json(nullptr);
  }
  Json single = Json::array(), pair = Json::array(), specials = Json::object();
  const auto add = [&](const std::vector<int32_t>& ids, Json* list, int type_id) {
    for (const int32_t id : ids) {
      const std::string& name = spellings[id];
      list->push_back({{"SpecialToken", {{"id", name}, {"type_id", type_id}}}});
      specials[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
    }
  };
  const auto text = [](const char* name, int type_id) {
    return Json{{"Sequence", {{"id", name}, {"type_id", type_id}}}};
  };
  add(d.template_prefix, &single, 0);
  single.push_back(text("A", 0));
  add(d.template_suffix, &single, 0);
  pair = single;
  add(d.template_prefix, &pair, 1);
  pair.push_back(text("B", 1));
  add(d.template_suffix, &pair, 1);
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", pair},
          {"special_tokens", specials}};
}

Json ModelOf(const BpeDefinition& d, const std::vector<std::string>& spellings) {
  const bool sentence_piece = d.kind == BpeDefinition::Kind::kSentencePiece;
  Json vocabulary = Json::object(), merges = Json::array();
  auto& entries = vocabulary.get_ref<Json::object_t&>();
  for (size_t id = 0; id < spellings.size(); ++id) {
    // Past the object's own look-up for duplicates, which is linear.
    if (d.present[id]) entries.emplace_back(spellings[id], Json(id));
  }
  std::vector<BpeMerge> sorted = d.merges;
  std::sort(sorted.begin(), sorted.end(), [](const BpeMerge& a, const BpeMerge& b) {
    return std::tie(a.rank, a.left, a.right) < std::tie(b.rank, b.left, b.right);
  });
  for (const BpeMerge& merge : sorted) {
    merges.push_back(Json::array({spellings[merge.left], spellings[merge.right]}));
  }
  Json unknown = nullptr;
  if (d.unknown_id >= 0) unknown = spellings[d.unknown_id];
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", unknown},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", sentence_piece},
          {"byte_fallback", sentence_piece},
          {"ignore_merges", d.whole_words_first},
          {"vocab", std::move(vocabulary)},
          {"merges", std::move(merges)}};
}

}  // namespace

Status WriteTokenizerJson(const BpeDefinition& definition, const std::string& path) {
  const std::vector<std::string> spellings = Spellings(definition);
  Json root;
  root["version"] = "1.0";
  root["truncation"] = nullptr;
  root["padding"] = nullptr;
  root["added_tokens"] = AddedTokens(definition);
  root["normalizer"] = NormalizerOf(definition);
  root["pre_tokenizer"] = PreTokenizerOf(definition);
  root["post_processor"] = PostProcessorOf(definition, spellings);
  root["decoder"] = DecoderOf(definition);
  root["model"] = ModelOf(definition, spellings);
  ASSIGN_OR_RETURN(auto file, OutputFile::Create(path));
  RETURN_IF_ERROR(file->Write(DumpJson(root, 1) + "\n"));
  return file->Commit();
}

}  // namespace trireme
