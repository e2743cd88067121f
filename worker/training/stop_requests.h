// StopRequests: hands a stop that a signal asked for to whoever can act on it now.
#pragma once

#include <functional>
#include <mutex>
#include <string>
#include <utility>

namespace trireme {

class StopRequests {
 public:
  using Handler = std::function<void(const std::string& reason)>;

  // Acts at once when a handler is there, else when one comes.
  void Request(const std::string& reason) {
    std::lock_guard lock(mutex_);
    reason_ = reason;
    if (handler_) handler_(reason);
  }
  // An empty handler takes the old one away; afterwards it is not running any more.
  void SetHandler(Handler handler) {
    std::lock_guard lock(mutex_);
    handler_ = std::move(handler);
    if (handler_ && !reason_.empty()) handler_(reason_);
  }

 private:
  std::mutex mutex_;
  Handler handler_;
  std::string reason_;
};

}  // namespace trireme
