// TEXT: what every command that reads text accepts, as one stream of documents.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "worker/text/byte_stream.h"

namespace trireme {

// A file, a line of jsonl, or a row.
struct Document {
  // The record's own "id" where it has one, else where().
  std::string id;
  // Bytes as they are, apart from a byte order mark: a UTF-8 one is taken off and UTF-16 is
  // converted. May be invalid UTF-8; raw HTML where `html` is true.
  std::string text;
  bool html = false;
  // Of the file: kUtf16 for every document of it, kUtf8 for one that is the whole file.
  ByteOrderMark mark = ByteOrderMark::kNone;
  // For messages: "corpus/a.html", "corpus/b.jsonl.gz:12", "corpus/c.tar.zst:d/e.html".
  std::string where;
};

struct TextSourceOptions {
  std::string field = "text";  // jsonl key; csv/tsv column by name (with a header) or number from 1
  // A larger document is an error: one document is in memory at a time, and that is the bound.
  int64_t document_bytes_max = int64_t{256} << 20;
  // Files that a folder or glob may hold and that are no input: what is being written.
  std::vector<std::string> left_out;
};

// Reads files, folders (recursively) and globs of .txt .md .html .jsonl .csv .tsv, each plain, .gz,
// .zst, .bz2, .xz, or in a .tar of those (itself compressed or not). Order: the paths as given; in
// a folder or glob sorted by path; in a tar as stored. In folders and tars other kinds of files and
// hidden ones are skipped. Memory: one document and fixed buffers. Not thread-safe.
class TextSource {
 public:
  // kDataLoss: a path that does not exist, or that is of no kind that is read; a folder without
  // text.
  static Result<std::unique_ptr<TextSource>> Open(const std::vector<std::string>& paths,
                                                  const TextSourceOptions& options);
  virtual ~TextSource() = default;

  // False at the end. kDataLoss names file and line: unreadable or truncated files, lines that are
  // not JSON, missing fields or columns, unbalanced quotes.
  virtual Result<bool> Next(Document* document) = 0;

  // Files opened so far, and in all; bytes read from disk so far, and in all.
  virtual int64_t files_read() const = 0;
  virtual int64_t files() const = 0;
  // Of folders, globs and tars, so far: not of a kind that is read.
  virtual int64_t files_skipped() const = 0;
  virtual int64_t bytes_read() const = 0;
  virtual int64_t bytes() const = 0;
};

// The next documents, up to about 256 KiB: a batch for one thread. Adds them to `documents` and
// returns their size, -1 at the end.
Result<int64_t> NextDocuments(TextSource* source, std::vector<Document>* documents);

// kDataLoss, with place and byte, for a document that is not UTF-8.
Status CheckUtf8(const Document& document);

}  // namespace trireme
