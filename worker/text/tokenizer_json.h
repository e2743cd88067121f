// Hugging Face's tokenizer.json, read and written.
#pragma once

#include <string>
#include <string_view>

#include "cluster/base/status.h"
#include "worker/text/bpe_tokenizer.h"

namespace trireme {

inline constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581, SentencePiece's space

// Parses the `content` of tokenizer.json. `path` is for messages. kDataLoss for broken files,
// kNotBuilt for models, normalisers or pre-tokenizers that this build does not have.
Result<BpeDefinition> ReadTokenizerJson(const std::string& path, const std::string& content);

// Fills end_of_text and bos from tokenizer_config.json beside it, where the names did not tell.
void ReadTokenizerConfig(const std::string& content, BpeDefinition* definition);

// The file appears when it is whole. kStorage when it cannot be written.
Status WriteTokenizerJson(const BpeDefinition& definition, const std::string& path);

}  // namespace trireme
