// The operations that a GPU's stream was given since it was last seen to be idle. A GPU's error
// shows some time after the operation that caused it, so the line that ends the process names
// these.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <string>

namespace trireme {

// One thread enters; any thread may read while it does, and then sees some recent state.
class OperationLog {
 public:
  // `operation` is a literal.
  void Enter(const char* operation);
  // All work was seen to be done.
  void Clear() { count_.store(0, std::memory_order_relaxed); }
  const char* latest() const;

  // "in AdamW", "in AdamW or one of the 20 operations before it (MatMul, Add, ...)", or "before any
  // operation of this stream".
  std::string ToString() const;

 private:
  static constexpr int64_t kKept = 8;
  std::array<std::atomic<const char*>, kKept> names_{};
  std::atomic<int64_t> count_{0};
};

}  // namespace trireme
