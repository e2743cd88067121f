// Tells what kind of file or folder a tokenizer comes in, and reads it.
#include <cstring>
#include <filesystem>
#include <fstream>

#include "worker/text/bpe_tokenizer.h"
#include "worker/text/pretokenize.h"
#include "worker/text/tokenizer.h"
#include "worker/text/tokenizer_files.h"
#include "worker/text/tokenizer_json.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

// The two files of GPT-2's form beside each other, by either of their names; empty if one lacks.
struct FilePair {
  std::string vocabulary, merges;
};
FilePair FindPair(const fs::path& folder) {
  FilePair pair;
  for (const char* name : {"encoder.json", "vocab.json"}) {
    if (fs::exists(folder / name)) pair.vocabulary = (folder / name).string();
  }
  for (const char* name : {"vocab.bpe", "merges.txt"}) {
    if (fs::exists(folder / name)) pair.merges = (folder / name).string();
  }
  return pair;
}

Result<BpeDefinition> ReadPair(const fs::path& folder, const TokenizerOptions& options) {
  const FilePair pair = FindPair(folder);
  if (pair.vocabulary.empty() || pair.merges.empty()) {
    return DataLossError(
        StrCat(folder.string(), ": ",
               pair.vocabulary.empty() ? "vocab.json or encoder.json" : "merges.txt or vocab.bpe",
               " is missing; byte pairs need the vocabulary and the merges"));
  }
  return ReadVocabularyAndMerges(pair.vocabulary, pair.merges, options.pattern);
}

Result<BpeDefinition> ReadJson(const std::string& path, const std::string& content,
                               const TokenizerOptions& options) {
  if (content.find("\"bpe_ranks\"") != std::string::npos) {
    return ReadTiktokenJson(path, content, options.pattern);
  }
  auto definition = ReadTokenizerJson(path, content);
  if (!definition.ok()) return definition;
  const fs::path config = fs::path(path).parent_path() / "tokenizer_config.json";
  if (fs::exists(config)) {
    auto config_content = ReadVocabularyFile(config.string());
    if (config_content.ok()) ReadTokenizerConfig(*config_content, &*definition);
  }
  return definition;
}

bool LooksLikeLlama2c(std::string_view content) {
  // int32 longest token, float score, int32 size of "<unk>".
  int32_t longest, size;
  if (content.size() < 17) return false;
  std::memcpy(&longest, content.data(), sizeof(longest));
  std::memcpy(&size, content.data() + 8, sizeof(size));
  return longest > 0 && longest < 4096 && size == 5 && content.substr(12, 5) == "<unk>";
}

bool IsGguf(const std::string& path) {
  char magic[4] = {};
  std::ifstream(path, std::ios::binary).read(magic, sizeof(magic));
  return std::string_view(magic, sizeof(magic)) == "GGUF" || path.ends_with(".gguf");
}

Result<BpeDefinition> ReadFile(const std::string& path, const TokenizerOptions& options) {
  const std::string name = fs::path(path).filename().string();
  for (const char* of_pair : {"encoder.json", "vocab.json", "vocab.bpe", "merges.txt"}) {
    if (name == of_pair) return ReadPair(fs::path(path).parent_path(), options);
  }
  if (IsGguf(path)) {  // looked at first: it may be larger than any vocabulary
    return NotBuiltError(
        path + ": tokenizers inside GGUF files are not built yet; tokenizer.json is read");
  }
  ASSIGN_OR_RETURN(const std::string content, ReadVocabularyFile(path));
  const size_t first = content.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && content[first] == '{') return ReadJson(path, content, options);
  if (LooksLikeTiktoken(content)) return ReadTiktokenText(path, content, options.pattern);
  if (LooksLikeLlama2c(content)) return ReadLlama2c(path, content);
  if (name.ends_with(".model")) {
    return NotBuiltError(path + ": SentencePiece models are not built yet; tokenizer.json is read");
  }
  if (name == "vocab.txt") {
    return NotBuiltError(path + ": WordPiece vocabularies are not built yet");
  }
  if (name.ends_with(".tiktoken")) {
    return DataLossError(path + ": expected lines of base64 and a rank");
  }
  if (name.ends_with(".json")) return DataLossError(path + ": expected a json object");
  return DataLossError(path +
                       ": not a tokenizer (tokenizer.json, vocab.json with merges.txt, a tiktoken "
                       "file, llama2.c's tokenizer.bin)");
}

Result<BpeDefinition> ReadFolder(const std::string& path, const TokenizerOptions& options) {
  const fs::path folder(path);
  if (fs::exists(folder / "tokenizer.json")) {
    return ReadFile((folder / "tokenizer.json").string(), options);
  }
  const FilePair pair = FindPair(folder);
  if (!pair.vocabulary.empty() && !pair.merges.empty()) return ReadPair(folder, options);
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".tiktoken") return ReadFile(entry.path().string(), options);
  }
  for (const char* name :
       {"cl100k_base.json", "o200k_base.json", "p50k_base.json", "r50k_base.json"}) {
    if (fs::exists(folder / name)) return ReadFile((folder / name).string(), options);
  }
  for (const char* name : {"tokenizer.bin", "tokenizer.model", "vocab.txt"}) {
    if (fs::exists(folder / name)) return ReadFile((folder / name).string(), options);
  }
  if (!pair.vocabulary.empty() || !pair.merges.empty()) return ReadPair(folder, options);
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".gguf") return ReadFile(entry.path().string(), options);
  }
  return DataLossError(path +
                       ": no tokenizer in this folder (tokenizer.json, vocab.json and "
                       "merges.txt, *.tiktoken, tokenizer.bin)");
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& path,
                                                   const TokenizerOptions& options) {
  RETURN_IF_ERROR(CheckPatternName(options.pattern));
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return DataLossError(path + ": no such file or folder");
  auto definition = fs::is_directory(status) ? ReadFolder(path, options) : ReadFile(path, options);
  if (!definition.ok()) return definition.status();
  return MakeBpeTokenizer(std::move(definition).value(), path);
}

}  // namespace trireme
