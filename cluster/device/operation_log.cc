#include "cluster/device/operation_log.h"

#include <algorithm>

namespace trireme {

void OperationLog::Enter(const char* operation) {
  const int64_t count = count_.load(std::memory_order_relaxed);
  names_[count % kKept].store(operation, std::memory_order_relaxed);
  count_.store(count + 1, std::memory_order_release);
}

const char* OperationLog::latest() const {
  const int64_t count = count_.load(std::memory_order_acquire);
  return count == 0 ? nullptr : names_[(count - 1) % kKept].load(std::memory_order_relaxed);
}

std::string OperationLog::ToString() const {
  const int64_t count = count_.load(std::memory_order_acquire);
  if (count == 0) return "before any operation of this stream";
  std::string text = std::string("in ") + names_[(count - 1) % kKept].load();
  if (count == 1) return text;
  text += " or one of the " + std::to_string(count - 1) + " operations before it (";
  const int64_t first = std::max<int64_t>(0, count - kKept);
  for (int64_t i = count - 2; i >= first; --i) {
    text += names_[i % kKept].load();
    if (i > first) text += ", ";
  }
  return text + (first > 0 ? ", ...)" : ")");
}

}  // namespace trireme
