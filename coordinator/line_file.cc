#include "coordinator/line_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iostream>

namespace trireme {
namespace {

constexpr size_t kWaitingMax = 100'000;

// Logs may lie on the same full disk.
void Say(const std::string& message) {
  LOG(ERROR) << message;
  std::cerr << "trireme: " << message << std::endl;
}

// Where the last whole line ends.
Result<int64_t> EndOfLines(int file, int64_t size) {
  char block[4096];
  for (int64_t end = size; end > 0;) {
    const int64_t start = std::max<int64_t>(0, end - static_cast<int64_t>(sizeof(block)));
    const ssize_t got = pread(file, block, static_cast<size_t>(end - start), start);
    if (got != end - start) return StorageError(strerror(errno));
    for (int64_t i = got; i > 0; --i) {
      if (block[i - 1] == '\n') return start + i;
    }
    end = start;
  }
  return int64_t{0};
}

}  // namespace

LineFile::~LineFile() {
  while (!waiting_.empty() && WriteFront()) waiting_.pop_front();
  if (!waiting_.empty()) Say(StrCat(path_, ": ", waiting_.size(), " lines are lost"));
  if (file_ >= 0) close(file_);
}

Status LineFile::Open(const std::string& path) {
  path_ = path;
  file_ = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
  if (file_ < 0) return StorageError(StrCat(path, ": ", strerror(errno)));
  struct stat info {};
  if (fstat(file_, &info) != 0) return StorageError(StrCat(path, ": ", strerror(errno)));
  ASSIGN_OR_RETURN(size_, EndOfLines(file_, info.st_size));
  if (size_ != info.st_size && ftruncate(file_, size_) != 0) {
    return StorageError(StrCat(path, ": ", strerror(errno)));
  }
  return OkStatus();
}

void LineFile::Append(const std::string& line) {
  waiting_.push_back(line + "\n");
  if (waiting_.size() > kWaitingMax) waiting_.pop_front();
  while (!waiting_.empty() && WriteFront()) waiting_.pop_front();
}

bool LineFile::WriteFront() {
  const std::string& line = waiting_.front();
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t got =
        pwrite(file_, line.data() + done, line.size() - done, size_ + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      if (!failing_) Say(StrCat(path_, ": ", strerror(errno), "; its lines wait in memory"));
      // Half a line must not stand before the next reader.
      if (done > 0 && ftruncate(file_, size_) != 0 && !failing_) {
        LOG(ERROR) << path_ << ": " << strerror(errno);
      }
      failing_ = true;
      return false;
    }
    done += static_cast<size_t>(got);
  }
  failing_ = false;
  size_ += static_cast<int64_t>(line.size());
  return true;
}

void LineFile::Sync() {
  if (fsync(file_) != 0) LOG(ERROR) << path_ << ": " << strerror(errno);
}

}  // namespace trireme
