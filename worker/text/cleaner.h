// From documents as they are found to documents to train on.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "worker/text/near_duplicates.h"
#include "worker/text/text_source.h"
#include "worker/text/unicode_clean.h"

namespace trireme {

enum class HtmlMode : uint8_t { kAuto, kAlways, kNever };

struct CleanOptions {
  HtmlMode html = HtmlMode::kAuto;  // auto: files named .html; always: every document; never: none
  bool lowercase = false;
  std::string encoding;           // of documents that are neither UTF-8 nor declare what they are
  int64_t characters_min = 5;     // code points after cleaning
  int64_t characters_max = 0;     // 0: any number
  double symbol_share_max = 0.5;  // see SymbolShare()
  bool exact_duplicates = true;
  bool near_duplicates = true;
  int threads = 0;  // 0: all cores
  TextSourceOptions source;
};

// Why a document is left out, in the order in which the reasons are tried.
enum class DropReason : uint8_t {
  kNotUtf8,
  kTooDeep,  // HTML whose elements nest beyond what is parsed
  kEmpty,    // nothing is left
  kTooShort,
  kTooLong,
  kSymbols,
  kExactDuplicate,
  kNearDuplicate,
};
inline constexpr size_t kDropReasons = 8;
const char* DropReasonName(DropReason reason);

// Characters that are neither letters, marks, digits nor white space, as a share of those that are
// not white space. 0 for an empty text. `text` is valid UTF-8.
double SymbolShare(std::string_view text);

struct Tally {
  int64_t documents = 0;
  int64_t characters = 0;  // code points; bytes for what is not UTF-8
};

// What became of every document.
struct CleanReport {
  int64_t files = 0;
  int64_t files_skipped = 0;
  Tally input;
  int64_t input_bytes = 0;  // of the documents, decompressed
  Tally output;
  int64_t output_bytes = 0;
  std::array<Tally, kDropReasons> dropped;
  std::array<Tally, kTextChanges> changed;  // of kept and dropped documents alike
  int64_t duplicate_index_bytes = 0;

  // One JSON object, the reasons as keys; those that never applied count 0.
  // indent: of each level, -1 for one line.
  std::string ToJson(int indent = 2) const;
};

// What cleaning makes of one document by itself; duplicates are a matter of all documents together.
struct CleanedText {
  std::string text;
  std::optional<DropReason> dropped;
  TextChanges changes = {};
  int64_t input_characters = 0;
};
CleanedText CleanDocument(Document document, const CleanOptions& options);

// Cleans all documents of `paths` and hands what is kept to `sink(id, text)`, in the order of the
// input whatever the number of threads. Of duplicates the first is kept. `progress(read, all)`,
// where given, is told bytes of input now and then, on the calling thread. Memory: documents in
// flight (64 MiB, or one document) and the DuplicateIndex. kDataLoss where there are no documents,
// or none is kept (with the reasons); errors of TextSource and of the sink as they are.
Result<CleanReport> CleanCorpus(
    const std::vector<std::string>& paths, const CleanOptions& options,
    const std::function<Status(const std::string& id, const std::string& text)>& sink,
    const std::function<void(int64_t, int64_t)>& progress);

}  // namespace trireme
