#include "storage/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>

namespace trireme {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

Status WriteError(std::string_view what, const std::string& path, int error) {
  return StorageError(StrCat(path, ": ", what, ": ", std::strerror(error)));
}

}  // namespace

Result<std::unique_ptr<OutputFile>> OutputFile::Create(const std::string& path) {
  namespace fs = std::filesystem;
  static std::atomic<int> serial{0};
  const fs::path target(path);
  if (target.filename().empty() || fs::is_directory(target)) {
    return InvalidArgumentError(StrCat("'", path, "' is a folder; expected the name of a file"));
  }
  std::error_code error;
  if (target.has_parent_path()) fs::create_directories(target.parent_path(), error);
  if (error) return StorageError(StrCat(path, ": cannot make its folder: ", error.message()));
  const std::string name =
      StrCat(".", target.filename().string(), ".partial-", ::getpid(), "-", serial.fetch_add(1));
  const std::string temporary = (target.parent_path() / name).string();
  const int fd = ::open(temporary.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
  if (fd < 0) return WriteError("cannot be created", path, errno);
  return std::unique_ptr<OutputFile>(new OutputFile(path, temporary, fd));
}

OutputFile::OutputFile(std::string path, std::string temporary_path, int fd)
    : path_(std::move(path)), temporary_path_(std::move(temporary_path)), fd_(fd) {}

OutputFile::~OutputFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_path_.c_str());
}

Status OutputFile::WriteFully(const char* data, size_t size) {
  while (size > 0) {
    const ssize_t written = ::write(fd_, data, size);
    if (written < 0) {
      if (errno == EINTR) continue;
      return WriteError("cannot be written", path_, errno);
    }
    data += written;
    size -= static_cast<size_t>(written);
  }
  return OkStatus();
}

Status OutputFile::Write(std::span<const std::byte> bytes) {
  return Write(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
}

Status OutputFile::Write(std::string_view bytes) {
  CHECK_GE(fd_, 0) << path_ << ": write after commit";
  bytes_written_ += static_cast<int64_t>(bytes.size());
  if (buffer_.size() + bytes.size() < kBufferBytes) {
    buffer_.append(bytes);
    return OkStatus();
  }
  RETURN_IF_ERROR(Flush());
  if (bytes.size() >= kBufferBytes) return WriteFully(bytes.data(), bytes.size());
  buffer_.append(bytes);
  return OkStatus();
}

Status OutputFile::Flush() {
  const Status status = WriteFully(buffer_.data(), buffer_.size());
  buffer_.clear();
  return status;
}

Status OutputFile::Truncate(int64_t bytes) {
  RETURN_IF_ERROR(Flush());
  if (::ftruncate(fd_, bytes) != 0) return WriteError("cannot be cut", path_, errno);
  if (::lseek(fd_, bytes, SEEK_SET) < 0) return WriteError("cannot be cut", path_, errno);
  bytes_written_ = bytes;
  return OkStatus();
}

Status OutputFile::CommitAs(const std::string& path) {
  path_ = path;
  return Commit();
}

Status OutputFile::Commit() {
  RETURN_IF_ERROR(Flush());
  if (::fsync(fd_) != 0) return WriteError("cannot be written", path_, errno);
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    return WriteError("cannot be put in place", path_, errno);
  }
  const int closed = ::close(fd_);
  fd_ = -1;
  if (closed != 0) return WriteError("cannot be closed", path_, errno);
  return OkStatus();
}

}  // namespace trireme
