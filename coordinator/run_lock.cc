#include "coordinator/run_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace trireme {
namespace {

std::string LockPath(const std::string& run_dir) { return run_dir + "/journal/lock"; }

}  // namespace

Result<std::unique_ptr<RunLock>> RunLock::Take(const std::string& run_dir) {
  std::error_code error;
  std::filesystem::create_directories(run_dir + "/journal", error);
  if (error) return StorageError(StrCat(run_dir, "/journal: ", error.message()));
  const int file = open(LockPath(run_dir).c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
  if (file < 0) return StorageError(StrCat(LockPath(run_dir), ": ", strerror(errno)));
  if (flock(file, LOCK_EX | LOCK_NB) == 0) return std::unique_ptr<RunLock>(new RunLock(file));
  const int why = errno;
  close(file);
  if (why == EWOULDBLOCK) {
    return InvalidArgumentError(
        StrCat("run.dir ", run_dir, " is being trained by another process"));
  }
  return StorageError(StrCat(LockPath(run_dir), ": ", strerror(why)));
}

bool RunLock::Held(const std::string& run_dir) {
  const int file = open(LockPath(run_dir).c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool held = flock(file, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  close(file);
  return held;
}

RunLock::~RunLock() { close(file_); }

}  // namespace trireme
