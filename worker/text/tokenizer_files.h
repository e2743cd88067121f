// Files that vocabularies come in, other than tokenizer.json (tokenizer_json.h).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/base/status.h"
#include "worker/text/bpe_tokenizer.h"

namespace trireme {

// All bytes of a file. kDataLoss with the path when it cannot be read or is larger than 1 GiB.
Result<std::string> ReadVocabularyFile(const std::string& path);

// vocab.json or encoder.json with merges.txt or vocab.bpe (GPT-2). Tokens that are neither bytes
// nor made by a merge are special tokens. `pattern` empty: gpt2.
Result<BpeDefinition> ReadVocabularyAndMerges(const std::string& vocabulary_path,
                                              const std::string& merges_path,
                                              const std::string& pattern);

// Whether `content` looks like tiktoken's text form: lines of base64 and a rank.
bool LooksLikeTiktoken(std::string_view content);
// tiktoken's text form. `pattern`: a name or a regular expression; empty: by the file's name.
// Special tokens follow the family that the name or the pattern tells, when the ranks are that
// family's.
Result<BpeDefinition> ReadTiktokenText(const std::string& path, std::string_view content,
                                       const std::string& pattern);
// The json form of the npm package tiktoken: pat_str, special_tokens, bpe_ranks.
Result<BpeDefinition> ReadTiktokenJson(const std::string& path, const std::string& content,
                                       const std::string& pattern);

// llama2.c's tokenizer.bin: int32 longest token, then for each token float score, int32 size,
// bytes.
Result<BpeDefinition> ReadLlama2c(const std::string& path, std::string_view content);

// Adds a token with an id of its own; false if the id is taken by another token, or out of range.
bool PutToken(int64_t id, std::string_view bytes, BpeDefinition* definition);
// Sets end_of_text by the usual names among the added tokens, if it has none yet.
void NameEndOfText(BpeDefinition* definition);

// Ids above this are refused: no vocabulary is near it, and a hostile file could ask for any
// memory.
inline constexpr int64_t kVocabularySizeMax = 4 << 20;

}  // namespace trireme
