#include "worker/text/text_writer.h"

#include <archive.h>
#include <archive_entry.h>

#include <cerrno>

#include "cluster/base/json.h"
#include "storage/output_file.h"
#include "worker/text/byte_stream.h"
#include "worker/text/record_reader.h"
#include "worker/text/unicode_clean.h"

namespace trireme {
namespace {

void AppendJsonString(std::string_view text, std::string* out) {
  // Most strings need few escapes; what is not UTF-8 takes the library's way.
  static constexpr char kHex[] = "0123456789abcdef";
  out->push_back('"');
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x20 && c != '"' && c != '\\') continue;
    out->append(text, begin, i - begin);
    begin = i + 1;
    if (c == '\n') {
      *out += "\\n";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (c == '"' || c == '\\') {
      out->push_back('\\');
      out->push_back(static_cast<char>(c));
    } else {
      *out += "\\u00";
      out->push_back(kHex[c >> 4]);
      out->push_back(kHex[c & 15]);
    }
  }
  out->append(text, begin, text.size() - begin);
  out->push_back('"');
}

void AppendJson(std::string_view text, std::string* out) {
  if (IsValidUtf8(text)) return AppendJsonString(text, out);
  *out += DumpJson(SortedJson(std::string(text)));
}

class JsonlWriter : public TextWriter {
 public:
  JsonlWriter(std::unique_ptr<OutputFile> file, std::string_view compression)
      : file_(std::move(file)), compression_(compression) {}
  ~JsonlWriter() override {
    // Frees without finishing: what is still buffered must not reach a file that is given up.
    discard_ = true;
    if (archive_ != nullptr) archive_write_free(archive_);
  }

  Status Open() {
    if (compression_.empty()) return OkStatus();
    archive_ = archive_write_new();
    archive_write_set_format_raw(archive_);
    if (compression_ == ".zst") archive_write_add_filter_zstd(archive_);
    if (compression_ == ".bz2") archive_write_add_filter_bzip2(archive_);
    if (compression_ == ".xz") archive_write_add_filter_xz(archive_);
    if (compression_ == ".gz") {
      archive_write_add_filter_gzip(archive_);
      archive_write_set_filter_option(archive_, "gzip", "timestamp", nullptr);
    }
    archive_write_set_bytes_in_last_block(archive_, 1);  // no padding
    if (archive_write_open(archive_, this, nullptr, &JsonlWriter::WriteBlock, nullptr) !=
        ARCHIVE_OK) {
      return Error();
    }
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, "data");
    archive_entry_set_filetype(entry, AE_IFREG);
    const int header = archive_write_header(archive_, entry);
    archive_entry_free(entry);
    return header == ARCHIVE_OK ? OkStatus() : Error();
  }

  Status Write(std::string_view id, std::string_view text) override {
    line_ = "{\"id\": ";
    AppendJson(id, &line_);
    line_ += ", \"text\": ";
    AppendJson(text, &line_);
    line_ += "}\n";
    if (archive_ == nullptr) return file_->Write(line_);
    const la_ssize_t written = archive_write_data(archive_, line_.data(), line_.size());
    return written == static_cast<la_ssize_t>(line_.size()) ? OkStatus() : Error();
  }

  Status Finish() override {
    if (archive_ != nullptr && archive_write_close(archive_) != ARCHIVE_OK) return Error();
    return file_->Commit();
  }

 private:
  static la_ssize_t WriteBlock(archive* self_archive, void* self, const void* data, size_t size) {
    auto* writer = static_cast<JsonlWriter*>(self);
    if (writer->discard_) return static_cast<la_ssize_t>(size);
    writer->status_ = writer->file_->Write(std::string_view(static_cast<const char*>(data), size));
    if (writer->status_.ok()) return static_cast<la_ssize_t>(size);
    archive_set_error(self_archive, EIO, "%s", "cannot be written");
    return -1;
  }
  Status Error() const {
    if (!status_.ok()) return status_;
    const char* text = archive_error_string(archive_);
    return StorageError(StrCat(file_->path(), ": ", text != nullptr ? text : "cannot be written"));
  }

  std::unique_ptr<OutputFile> file_;
  std::string_view compression_;
  archive* archive_ = nullptr;
  bool discard_ = false;
  Status status_;
  std::string line_;
};

}  // namespace

Result<std::unique_ptr<TextWriter>> TextWriter::Create(const std::string& path) {
  const TextKind kind = TextKindOf(path);
  if (kind.content != TextKind::Content::kJsonl) {
    return InvalidArgumentError(StrCat("'", path, "': expected a name that ends in .jsonl, ",
                                       ".jsonl.zst, .jsonl.gz, .jsonl.bz2 or .jsonl.xz"));
  }
  ASSIGN_OR_RETURN(auto file, OutputFile::Create(path));
  auto writer = std::make_unique<JsonlWriter>(std::move(file), kind.compression);
  RETURN_IF_ERROR(writer->Open());
  return std::unique_ptr<TextWriter>(std::move(writer));
}

std::string StemOfText(const std::string& path) {
  std::string stem = path.substr(0, path.size() - TextKindOf(path).compression.size());
  const size_t dot = stem.rfind('.');
  const size_t slash = stem.rfind('/');
  if (dot != std::string::npos && (slash == std::string::npos || dot > slash)) stem.resize(dot);
  return stem;
}

}  // namespace trireme
