// TEXT into TOKENS: every document's ids and the end-of-text token, in the order of the input.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "worker/text/text_source.h"
#include "worker/text/tokenizer.h"

namespace trireme {

struct PackOptions {
  std::string out;          // NAME without extension
  double validation = 0.0;  // share of the tokens; above 0: NAME_train and NAME_validation
  int threads = 0;          // 0: all cores
  // Overrides the tokenizer's own; needed where it has none.
  std::optional<int32_t> end_of_text;
  TextSourceOptions source;
};

struct PackReport {
  int64_t documents = 0;
  int64_t documents_empty = 0;  // left out
  int64_t tokens = 0;           // end-of-text tokens included
  int64_t validation_tokens = 0;
  int64_t text_bytes = 0;
  double seconds = 0;
  std::vector<std::string> names;  // of what was written, without extension
  std::string tokenizer_copy;      // beside them; empty where its format cannot be written

  double bytes_per_token() const;
  double megabytes_per_second() const;
  std::string ToJson() const;
};

// Encodes all documents of `paths` with `tokenizer`, which came from `tokenizer_path`, on all
// threads; the files do not depend on their number. HTML is encoded as it is: cleaning comes first.
// A copy of the tokenizer is put beside as NAME.tokenizer.json.
// Memory: documents and ids in flight, whatever the corpus.
// kDataLoss: no documents, or text that is not UTF-8 (with place and byte). kStorage: nothing is
// left behind. kInvalidArgument: no end-of-text token, a share outside [0, 1).
Result<PackReport> PackCorpus(const std::vector<std::string>& paths, const Tokenizer& tokenizer,
                              const std::string& tokenizer_path, const PackOptions& options,
                              const std::function<void(int64_t, int64_t)>& progress);

}  // namespace trireme
