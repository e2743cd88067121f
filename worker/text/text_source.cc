#include "worker/text/text_source.h"

#include <glob.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "worker/text/byte_stream.h"
#include "worker/text/record_reader.h"
#include "worker/text/unicode_clean.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;
using Content = TextKind::Content;

constexpr const char* kKinds =
    ".txt .md .html .jsonl .csv .tsv, plain or .gz .zst .bz2 .xz, or a .tar of these";

// Whether the path, or a folder in it, is hidden; "." and ".." are not.
bool IsHidden(const fs::path& path) {
  return std::any_of(path.begin(), path.end(), [](const fs::path& part) {
    return part.native().starts_with('.') && part != "." && part != "..";
  });
}

struct InputFile {
  std::string path;
  bool found = false;  // in a folder, rather than named
};

Status AddFolder(const std::string& folder, std::vector<InputFile>* files, int64_t* skipped) {
  std::vector<std::string> found;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error);
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    const std::string path = it->path().string();
    std::error_code ignored;
    if (IsHidden(it->path().filename())) {  // a folder counts as one
      if (it->is_directory(ignored)) it.disable_recursion_pending();
      ++*skipped;
      continue;
    }
    if (!it->is_regular_file(ignored)) continue;
    if (TextKindOf(path).content == Content::kOther) {
      ++*skipped;
    } else {
      found.push_back(path);
    }
  }
  if (error) return DataLossError(StrCat(folder, ": cannot be listed: ", error.message()));
  if (found.empty()) return DataLossError(StrCat(folder, ": holds no text (", kKinds, ")"));
  std::sort(found.begin(), found.end());
  for (std::string& path : found) files->push_back({std::move(path), true});
  return OkStatus();
}

Status AddPath(const std::string& path, std::vector<InputFile>* files, int64_t* skipped) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) return AddFolder(path, files, skipped);
  if (fs::exists(path, ignored)) {
    if (TextKindOf(path).content == Content::kOther) {
      return DataLossError(StrCat(path, ": not a kind of text that is read (", kKinds, ")"));
    }
    files->push_back({path});
    return OkStatus();
  }
  if (path.find_first_of("*?[") == std::string::npos) {
    return DataLossError(StrCat(path, ": no such file or folder"));
  }
  glob_t matches = {};
  const int rc = ::glob(path.c_str(), 0, nullptr, &matches);  // sorted by the C locale's order
  std::vector<std::string> found;
  for (size_t i = 0; rc == 0 && i < matches.gl_pathc; ++i) found.emplace_back(matches.gl_pathv[i]);
  ::globfree(&matches);
  std::sort(found.begin(), found.end());
  const size_t before = files->size();
  for (const std::string& match : found) {
    if (fs::is_directory(match, ignored)) {
      RETURN_IF_ERROR(AddFolder(match, files, skipped));
    } else if (TextKindOf(match).content == Content::kOther) {
      ++*skipped;
    } else {
      files->push_back({match});
    }
  }
  if (files->size() == before) {
    return DataLossError(StrCat(path, ": matches no file of text (", kKinds, ")"));
  }
  return OkStatus();
}

class FileTextSource : public TextSource {
 public:
  FileTextSource(std::vector<InputFile> inputs, int64_t skipped, TextSourceOptions options)
      : inputs_(std::move(inputs)), options_(std::move(options)), files_skipped_(skipped) {
    for (const InputFile& input : inputs_) {
      std::error_code error;
      const auto size = fs::file_size(input.path, error);
      if (!error) bytes_ += static_cast<int64_t>(size);
    }
  }

  Result<bool> Next(Document* document) override {
    while (true) {
      if (records_ != nullptr) {
        ASSIGN_OR_RETURN(const bool more, records_->Next(document));
        if (more) {
          document->mark = MarkOfDocument();
          return true;
        }
        files_skipped_ += records_->lacks_text() ? 1 : 0;
        CloseRecords();
      }
      if (tar_ != nullptr) {
        ASSIGN_OR_RETURN(const bool more, NextEntry());
        if (!more) CloseFile();
        continue;
      }
      CloseFile();
      if (next_ == inputs_.size()) return false;
      RETURN_IF_ERROR(OpenFile(inputs_[next_++]));
    }
  }

  int64_t files_read() const override { return static_cast<int64_t>(next_); }
  int64_t files() const override { return static_cast<int64_t>(inputs_.size()); }
  int64_t files_skipped() const override { return files_skipped_; }
  int64_t bytes_read() const override { return bytes_read_; }
  int64_t bytes() const override { return bytes_; }

 private:
  Status OpenFile(const InputFile& input) {
    const std::string& path = input.path;
    ASSIGN_OR_RETURN(file_, OpenFileStream(path, &bytes_read_));
    const TextKind kind = TextKindOf(path);
    ByteStream* stream = file_.get();
    if (!kind.compression.empty()) {
      ASSIGN_OR_RETURN(decompressed_, OpenDecompressed(stream, kind.compression, path));
      stream = decompressed_.get();
    }
    if (kind.content != Content::kTar) {
      OpenContent(stream, kind.content, path, input.found);
      return OkStatus();
    }
    tar_name_ = path;
    ASSIGN_OR_RETURN(tar_, OpenTar(stream, path));
    return OkStatus();
  }

  // Opens the records of the tar's next entry of text; false at its end.
  Result<bool> NextEntry() {
    std::string name;
    while (true) {
      ASSIGN_OR_RETURN(const bool more, tar_->Next(&name));
      if (!more) return false;
      const TextKind kind = TextKindOf(name);
      if (kind.content == Content::kOther || kind.content == Content::kTar || IsHidden(name)) {
        ++files_skipped_;
        continue;
      }
      const std::string where = StrCat(tar_name_, ":", name);
      ByteStream* stream = tar_->entry();
      if (!kind.compression.empty()) {
        ASSIGN_OR_RETURN(entry_, OpenDecompressed(stream, kind.compression, where));
        stream = entry_.get();
      }
      OpenContent(stream, kind.content, where, true);
      return true;
    }
  }

  void OpenContent(ByteStream* stream, Content content, const std::string& where, bool found) {
    unmarked_ = OpenWithoutByteOrderMark(stream);
    is_whole_file_ = content == Content::kPlain || content == Content::kHtml;
    records_ = OpenRecords(unmarked_.get(), content, where, found, options_);
  }
  // A mark before lines or rows was no part of any.
  ByteOrderMark MarkOfDocument() const {
    const ByteOrderMark mark = unmarked_->mark();
    return mark == ByteOrderMark::kUtf8 && !is_whole_file_ ? ByteOrderMark::kNone : mark;
  }
  // Readers stand on the streams below them: closed from the top.
  void CloseRecords() {
    records_.reset();
    unmarked_.reset();
    entry_.reset();
  }
  void CloseFile() {
    CloseRecords();
    tar_.reset();
    decompressed_.reset();
    file_.reset();
  }

  std::vector<InputFile> inputs_;
  TextSourceOptions options_;
  size_t next_ = 0;
  int64_t files_skipped_ = 0;
  int64_t bytes_read_ = 0;
  int64_t bytes_ = 0;
  std::string tar_name_;
  std::unique_ptr<ByteStream> file_;
  std::unique_ptr<ByteStream> decompressed_;
  std::unique_ptr<TarReader> tar_;
  std::unique_ptr<ByteStream> entry_;
  std::unique_ptr<UnmarkedStream> unmarked_;
  bool is_whole_file_ = false;  // the document that records_ gives
  std::unique_ptr<RecordReader> records_;
};

}  // namespace

Result<std::unique_ptr<TextSource>> TextSource::Open(const std::vector<std::string>& paths,
                                                     const TextSourceOptions& options) {
  if (paths.empty()) return InvalidArgumentError("no text named; expected files, folders or globs");
  std::vector<InputFile> files;
  int64_t skipped = 0;
  for (const std::string& path : paths) RETURN_IF_ERROR(AddPath(path, &files, &skipped));
  std::erase_if(files, [&](const InputFile& file) {
    std::error_code ignored;
    return std::find(paths.begin(), paths.end(), file.path) == paths.end() &&
           std::any_of(options.left_out.begin(), options.left_out.end(), [&](const auto& out) {
             return fs::weakly_canonical(file.path, ignored) == fs::weakly_canonical(out, ignored);
           });
  });
  return std::unique_ptr<TextSource>(
      std::make_unique<FileTextSource>(std::move(files), skipped, options));
}

Result<int64_t> NextDocuments(TextSource* source, std::vector<Document>* documents) {
  constexpr int64_t kBytes = 256 << 10;
  constexpr int64_t kDocumentBytes = 256;  // what one costs besides its text
  int64_t bytes = 0;
  while (bytes < kBytes) {
    Document document;
    ASSIGN_OR_RETURN(const bool more, source->Next(&document));
    if (!more) break;
    bytes += static_cast<int64_t>(document.text.size()) + kDocumentBytes;
    documents->push_back(std::move(document));
  }
  return documents->empty() ? -1 : bytes;
}

Status CheckUtf8(const Document& document) {
  const std::optional<size_t> bad = FirstInvalidUtf8(document.text);
  if (!bad.has_value()) return OkStatus();
  return DataLossError(StrCat(document.where, ": not UTF-8 at byte ", *bad,
                              " of the document; 'trireme clean' converts or drops it"));
}

}  // namespace trireme
