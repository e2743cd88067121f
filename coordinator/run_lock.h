// At most one coordinator works on a run folder.
#pragma once

#include <memory>
#include <string>

#include "cluster/base/status.h"

namespace trireme {

// Held (flock of RUN_DIR/journal/lock) until destroyed or the process ends, however it ends.
class RunLock {
 public:
  // kInvalidArgument when another process holds it.
  static Result<std::unique_ptr<RunLock>> Take(const std::string& run_dir);
  // Whether some process holds it now.
  static bool Held(const std::string& run_dir);
  ~RunLock();

 private:
  explicit RunLock(int file) : file_(file) {}
  int file_;
};

}  // namespace trireme
