// Documents of one file: its whole content, its jsonl lines or its table rows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "cluster/base/status.h"
#include "worker/text/byte_stream.h"
#include "worker/text/text_source.h"

namespace trireme {

// What a file's name says about its content.
struct TextKind {
  enum class Content { kOther, kPlain, kHtml, kJsonl, kCsv, kTsv, kTar };
  Content content = Content::kOther;
  std::string_view compression;  // "", ".gz", ".zst", ".bz2" or ".xz"
};
TextKind TextKindOf(const std::string& name);

class RecordReader {
 public:
  virtual ~RecordReader() = default;
  // As TextSource::Next.
  virtual Result<bool> Next(Document* document) = 0;
  // Whether the end came at once because the table has no column of text.
  virtual bool lacks_text() const { return false; }
};

// `stream` is not owned and outlives the reader. `where`: the file's name for messages and ids.
// `content` is neither kOther nor kTar. `found`: met in a folder or tar rather than named by the
// user; a table that has no column of the default name is then left out instead of refused.
std::unique_ptr<RecordReader> OpenRecords(ByteStream* stream, TextKind::Content content,
                                          const std::string& where, bool found,
                                          const TextSourceOptions& options);

}  // namespace trireme
