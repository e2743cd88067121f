// Learns byte pairs from counted words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "worker/text/bpe_tokenizer.h"
#include "worker/text/word_counter.h"

namespace trireme {

struct BpeTrainOptions {
  int64_t vocab_size = 8192;  // special tokens and the 256 bytes included
  int64_t min_frequency = 0;  // pairs that stand less often are not merged
  std::vector<std::string> special_tokens = {"<|endoftext|>"};
  std::string pattern;  // the regular expression that cut the words
};

// kInvalidArgument for a vocabulary too small for the bytes and special tokens, for an empty
// special token.
Status CheckBpeTrainOptions(const BpeTrainOptions& options);

// The merges that Hugging Face's BpeTrainer finds with the byte-level alphabet: again and again the
// pair that stands most often, of equal counts the one with the smallest ids. Ids: special tokens,
// bytes in the order of their spelling, merges. Stops early when no pair is left. The result does
// not depend on the order of the words. Memory: about 12 bytes for each byte of the distinct words,
// and 24 bytes for each pair met. kInvalidArgument for a vocabulary too small for bytes and special
// tokens. Sennrich et al. 2016, arXiv:1508.07909.
Result<BpeDefinition> TrainBpe(const WordTable& words, const BpeTrainOptions& options);

}  // namespace trireme
