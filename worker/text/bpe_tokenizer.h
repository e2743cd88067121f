// Byte pair encoding behind the Tokenizer interface: byte-level, and SentencePiece-style.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "worker/text/bpe_merger.h"
#include "worker/text/tokenizer.h"

namespace trireme {

// A token that stands in the text as it is, outside of byte pairs: <|endoftext|>, <think>.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = true;
  bool left_strip = false;  // takes the white space on its left along
  bool right_strip = false;
  bool single_word = false;  // only where no word character stands beside it
};

// One step of pre-tokenisation, in Hugging Face's terms a Split with a regular expression.
struct SplitStage {
  std::string pattern;
};

// Everything that decides ids; what readers of files fill in.
struct BpeDefinition {
  enum class Kind { kByteLevel, kSentencePiece };
  Kind kind = Kind::kByteLevel;
  // The bytes of each token by id; `present` tells an empty hole from a token. A
  // SentencePiece-style byte token <0x0A> is the byte itself here, and listed in byte_ids.
  std::vector<std::string> tokens;
  std::vector<bool> present;
  std::vector<BpeMerge> merges;
  std::vector<int32_t> byte_ids = std::vector<int32_t>(256, -1);
  // SentencePiece-style: the id given to what has neither a piece nor byte tokens; -1: dropped.
  int32_t unknown_id = -1;
  std::vector<SplitStage> stages;
  bool nfc = false;
  bool prefix_space = false;
  // A whole word that is a token is that token, whatever the merges say (tiktoken, Llama 3).
  bool whole_words_first = false;
  std::vector<AddedToken> added;
  std::vector<int32_t> template_prefix, template_suffix;
  std::optional<int32_t> end_of_text, bos;
};

// Checks the definition and builds a tokenizer from it. `place` names the file in errors: kDataLoss
// for ids, merges or added tokens that contradict each other, kInvalidArgument for a pattern that
// does not compile.
Result<std::unique_ptr<Tokenizer>> MakeBpeTokenizer(BpeDefinition definition,
                                                    const std::string& place);

// The merges by which byte pairs reach `tokens` when ranks belong to tokens: every cut of a token
// into two tokens merges with rank_of_id[id]. How tiktoken's and llama2.c's files work.
std::vector<BpeMerge> MergesFromRanks(const std::vector<std::string>& tokens,
                                      const std::vector<bool>& usable,
                                      const std::vector<uint32_t>& rank_of_id);

}  // namespace trireme
