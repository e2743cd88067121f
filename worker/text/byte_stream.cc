#include "worker/text/byte_stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

namespace trireme {
namespace {

constexpr size_t kBlockBytes = 1 << 17;

class FileStream : public ByteStream {
 public:
  FileStream(int fd, std::string path, int64_t* bytes_read)
      : fd_(fd), path_(std::move(path)), bytes_read_(bytes_read) {}
  ~FileStream() override { ::close(fd_); }

  Result<size_t> Read(char* out, size_t size) override {
    ssize_t count;
    do {
      count = ::read(fd_, out, size);
    } while (count < 0 && errno == EINTR);
    if (count < 0) {
      return DataLossError(StrCat(path_, ": cannot be read: ", std::strerror(errno)));
    }
    if (bytes_read_ != nullptr) *bytes_read_ += count;
    return static_cast<size_t>(count);
  }

 private:
  int fd_;
  std::string path_;
  int64_t* bytes_read_;
};

// A libarchive reader over a ByteStream. An error of the inner stream is kept and wins over
// libarchive's own words for it.
class Archive {
 public:
  Archive(ByteStream* inner, std::string name)
      : inner_(inner), name_(std::move(name)), archive_(archive_read_new()), block_(kBlockBytes) {}
  ~Archive() { archive_read_free(archive_); }

  Status Open() {
    const int opened = archive_read_open(archive_, this, nullptr, &Archive::ReadBlock, nullptr);
    return opened == ARCHIVE_OK ? OkStatus() : Error();
  }
  Status Error() const {
    if (!inner_status_.ok()) return inner_status_;
    const char* text = archive_error_string(archive_);
    return DataLossError(StrCat(name_, ": ", text != nullptr ? text : "cannot be read"));
  }
  archive* get() { return archive_; }
  const std::string& name() const { return name_; }

 private:
  static la_ssize_t ReadBlock(archive* self_archive, void* self, const void** block) {
    auto* archive = static_cast<Archive*>(self);
    auto count = archive->inner_->Read(archive->block_.data(), archive->block_.size());
    if (!count.ok()) {
      archive->inner_status_ = count.status();
      archive_set_error(self_archive, EIO, "%s", "cannot be read");
      return ARCHIVE_FATAL;
    }
    *block = archive->block_.data();
    return static_cast<la_ssize_t>(*count);
  }

  ByteStream* inner_;
  std::string name_;
  archive* archive_;
  std::vector<char> block_;
  Status inner_status_;
};

Result<size_t> ReadData(Archive& archive, char* out, size_t size) {
  const la_ssize_t count = archive_read_data(archive.get(), out, size);
  if (count < 0) return archive.Error();
  return static_cast<size_t>(count);
}

class DecompressedStream : public ByteStream {
 public:
  DecompressedStream(ByteStream* inner, const std::string& name) : archive_(inner, name) {}

  Status Open(std::string_view compression) {
    archive* reader = archive_.get();
    if (compression == ".gz") archive_read_support_filter_gzip(reader);
    if (compression == ".zst") archive_read_support_filter_zstd(reader);
    if (compression == ".bz2") archive_read_support_filter_bzip2(reader);
    if (compression == ".xz") archive_read_support_filter_xz(reader);
    archive_read_support_format_raw(reader);
    archive_read_support_format_empty(reader);
    RETURN_IF_ERROR(archive_.Open());
    archive_entry* entry = nullptr;
    const int header = archive_read_next_header(reader, &entry);
    // Without a matching filter libarchive would hand the bytes through as they are.
    if (archive_filter_code(reader, 0) == ARCHIVE_FILTER_NONE) {
      return DataLossError(
          StrCat(archive_.name(), ": does not hold ", compression, " data as its name says"));
    }
    empty_ = header == ARCHIVE_EOF;
    return header == ARCHIVE_OK || header == ARCHIVE_EOF ? OkStatus() : archive_.Error();
  }
  Result<size_t> Read(char* out, size_t size) override {
    if (empty_) return size_t{0};
    return ReadData(archive_, out, size);
  }

 private:
  Archive archive_;
  bool empty_ = false;
};

class LibarchiveTarReader : public TarReader, public ByteStream {
 public:
  LibarchiveTarReader(ByteStream* inner, const std::string& name) : archive_(inner, name) {}

  Status Open() {
    archive_read_support_format_tar(archive_.get());
    archive_read_support_format_empty(archive_.get());
    return archive_.Open();
  }
  Result<bool> Next(std::string* path) override {
    while (true) {
      archive_entry* entry = nullptr;
      const int header = archive_read_next_header(archive_.get(), &entry);
      if (header == ARCHIVE_EOF) return false;
      // A warning concerns attributes (a name in another character set), not content.
      if (header != ARCHIVE_OK && header != ARCHIVE_WARN) return archive_.Error();
      const char* name = archive_entry_pathname(entry);
      if (archive_entry_filetype(entry) != AE_IFREG || name == nullptr) continue;
      *path = name;
      return true;
    }
  }
  ByteStream* entry() override { return this; }
  Result<size_t> Read(char* out, size_t size) override { return ReadData(archive_, out, size); }

 private:
  Archive archive_;
};

void AppendUtf8(uint32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (c >> 6)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (c >> 12)));
    out->push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | (c >> 18)));
    out->push_back(static_cast<char>(0x80 | ((c >> 12) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

class BomStream : public UnmarkedStream {
 public:
  explicit BomStream(ByteStream* inner) : inner_(inner) {}

  Result<size_t> Read(char* out, size_t size) override {
    if (!started_) RETURN_IF_ERROR(Start());
    while (position_ == buffer_.size()) {
      if (mark_ != ByteOrderMark::kUtf16) return inner_->Read(out, size);
      if (ended_) return size_t{0};
      RETURN_IF_ERROR(Convert());
    }
    const size_t count = std::min(size, buffer_.size() - position_);
    std::memcpy(out, buffer_.data() + position_, count);
    position_ += count;
    return count;
  }
  ByteOrderMark mark() const override { return mark_; }

 private:
  Status Start() {
    started_ = true;
    std::array<char, 3> head;
    size_t count = 0;
    while (count < head.size()) {
      ASSIGN_OR_RETURN(const size_t got, inner_->Read(head.data() + count, head.size() - count));
      if (got == 0) break;
      count += got;
    }
    const std::string_view bytes(head.data(), count);
    if (bytes == kByteOrderMark) {
      mark_ = ByteOrderMark::kUtf8;
      return OkStatus();
    }
    if (bytes.substr(0, 2) == "\xFF\xFE" || bytes.substr(0, 2) == "\xFE\xFF") {
      mark_ = ByteOrderMark::kUtf16;
      big_endian_ = head[0] == '\xFE';
      pending_ = bytes.substr(2);
      return OkStatus();
    }
    buffer_ = bytes;
    return OkStatus();
  }

  Status Convert() {
    std::array<char, 1 << 14> block;
    ASSIGN_OR_RETURN(const size_t got, inner_->Read(block.data(), block.size()));
    ended_ = got == 0;
    pending_.append(block.data(), got);
    buffer_.clear();
    position_ = 0;
    size_t i = 0;
    for (; i + 2 <= pending_.size(); i += 2) {
      const auto first = static_cast<unsigned char>(pending_[i]);
      const auto second = static_cast<unsigned char>(pending_[i + 1]);
      Unit(big_endian_ ? first << 8 | second : second << 8 | first);
    }
    pending_.erase(0, i);
    if (ended_ && (high_ != 0 || !pending_.empty())) AppendUtf8(0xFFFD, &buffer_);
    return OkStatus();
  }

  void Unit(uint32_t unit) {
    const bool low = unit >= 0xDC00 && unit < 0xE000;
    if (high_ != 0) {
      const uint32_t high = high_;
      high_ = 0;
      AppendUtf8(low ? 0x10000 + ((high - 0xD800) << 10) + (unit - 0xDC00) : 0xFFFD, &buffer_);
      if (low) return;
    }
    if (unit >= 0xD800 && unit < 0xDC00) {
      high_ = unit;
    } else {
      AppendUtf8(low ? 0xFFFD : unit, &buffer_);
    }
  }

  ByteStream* inner_;
  bool started_ = false;
  ByteOrderMark mark_ = ByteOrderMark::kNone;
  bool big_endian_ = false;
  bool ended_ = false;
  uint32_t high_ = 0;    // a high surrogate that waits for its low one
  std::string pending_;  // bytes of half a unit
  std::string buffer_;
  size_t position_ = 0;
};

}  // namespace

Result<std::unique_ptr<ByteStream>> OpenFileStream(const std::string& path, int64_t* bytes_read) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return DataLossError(StrCat(path, ": cannot be opened: ", std::strerror(errno)));
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
  return std::unique_ptr<ByteStream>(new FileStream(fd, path, bytes_read));
}

std::string_view CompressionOf(std::string_view name) {
  for (const std::string_view suffix : {".gz", ".zst", ".bz2", ".xz"}) {
    if (name.size() > suffix.size() && name.substr(name.size() - suffix.size()) == suffix) {
      return suffix;
    }
  }
  return {};
}

Result<std::unique_ptr<ByteStream>> OpenDecompressed(ByteStream* inner,
                                                     std::string_view compression,
                                                     const std::string& name) {
  auto stream = std::make_unique<DecompressedStream>(inner, name);
  RETURN_IF_ERROR(stream->Open(compression));
  return std::unique_ptr<ByteStream>(std::move(stream));
}

Result<std::unique_ptr<TarReader>> OpenTar(ByteStream* inner, const std::string& name) {
  auto reader = std::make_unique<LibarchiveTarReader>(inner, name);
  RETURN_IF_ERROR(reader->Open());
  return std::unique_ptr<TarReader>(std::move(reader));
}

std::unique_ptr<UnmarkedStream> OpenWithoutByteOrderMark(ByteStream* inner) {
  return std::make_unique<BomStream>(inner);
}

std::string_view WithoutByteOrderMark(std::string_view text) {
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  return text;
}

}  // namespace trireme
