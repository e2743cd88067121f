// Documents written as jsonl, plain or compressed, as one file that appears when it is whole.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "cluster/base/status.h"

namespace trireme {

// Lines {"id": ..., "text": ...}. Errors are kStorage. The same documents give the same bytes (with
// one version of the compressor). Not thread-safe.
class TextWriter {
 public:
  // `path` ends in .jsonl, .jsonl.zst, .jsonl.gz, .jsonl.bz2 or .jsonl.xz: kInvalidArgument if not.
  static Result<std::unique_ptr<TextWriter>> Create(const std::string& path);
  virtual ~TextWriter() = default;

  // Bytes that are not UTF-8 become U+FFFD.
  virtual Status Write(std::string_view id, std::string_view text) = 0;
  // Puts the file in its place; without it nothing is left.
  virtual Status Finish() = 0;
};

// "corpus/clean.jsonl.zst" -> "corpus/clean".
std::string StemOfText(const std::string& path);

}  // namespace trireme
