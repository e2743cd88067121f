#include "cluster/device/device_failure.h"

#include <glog/logging.h>
#include <unistd.h>

#include <iostream>

namespace trireme {

void EndByDeviceFailure(const std::string& what) {
  std::cout.flush();
  // One write: other threads may be about to say the same.
  const std::string line = "trireme: " + what + "\n";
  const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
  if (written > 0 && !FLAGS_logtostderr) LOG(ERROR) << what;
  google::FlushLogFiles(google::GLOG_INFO);
  _exit(1);
}

}  // namespace trireme
