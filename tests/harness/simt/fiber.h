// Fibers: stacks of one OS thread that take turns. A scheduler resumes a fiber, the fiber yields
// back. x86-64 alone, like the CPU kernels.
#pragma once

#include <cstddef>

namespace trireme::simt {

// One stack and where it stands. Not thread-safe: a fiber lives and dies on one OS thread.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // The next Resume calls entry(argument) on this stack. The entry must not let an exception out;
  // when it returns, the fiber is finished.
  void Start(void (*entry)(void*), void* argument);
  // Runs the fiber until it yields or finishes.
  void Resume();
  // Back to the Resume that is running; called on the fiber's own stack.
  void Yield();

 private:
  static void Main();
  void LeaveFor(void** save, bool for_good);
  void Arrived(void* fake_stack);

  std::byte* memory_ = nullptr;  // guard page, then the stack
  void* here_ = nullptr;         // stack pointer of the suspended fiber
  void* caller_ = nullptr;       // stack pointer of the suspended Resume
  void (*entry_)(void*) = nullptr;
  void* argument_ = nullptr;
  // What the sanitizers of addresses and of threads want to know of both stacks.
  void* fake_stack_ = nullptr;
  const void* caller_bottom_ = nullptr;
  size_t caller_bytes_ = 0;
  void* sanitizer_fiber_ = nullptr;
  void* sanitizer_caller_ = nullptr;
};

}  // namespace trireme::simt
