// A file that appears under its name only when it is whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "cluster/base/status.h"

namespace trireme {

// Buffered writes to a temporary name beside `path` (".NAME.partial-PID"), renamed by Commit().
// Without Commit() the destructor removes the temporary file, so that a full disk, an error or an
// early return leave nothing half-written and an older file of that name untouched.
// Errors are kStorage with the path and the system's reason. Not thread-safe.
class OutputFile {
 public:
  // Makes missing parent folders.
  static Result<std::unique_ptr<OutputFile>> Create(const std::string& path);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  Status Write(std::span<const std::byte> bytes);
  Status Write(std::string_view bytes);
  // Hands buffered bytes to the system; temporary_path() then holds all that was written.
  Status Flush();
  // Cuts the file to its first `bytes` bytes.
  Status Truncate(int64_t bytes);
  // Flush, fsync, rename to path(). The object accepts no writes afterwards.
  Status Commit();
  // The same under another name in the same folder.
  Status CommitAs(const std::string& path);

  const std::string& path() const { return path_; }
  const std::string& temporary_path() const { return temporary_path_; }
  int64_t bytes_written() const { return bytes_written_; }

 private:
  OutputFile(std::string path, std::string temporary_path, int fd);
  Status WriteFully(const char* data, size_t size);

  std::string path_;
  std::string temporary_path_;
  int fd_;
  std::string buffer_;
  int64_t bytes_written_ = 0;
};

}  // namespace trireme
