#include <glog/logging.h>
#include <simt/fiber.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstring>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#if !defined(__x86_64__)
#error "the SIMT harness switches stacks on x86-64 alone"
#endif

// Saves the callee-saved registers and the stack pointer, loads those of the other stack. The
// rounding modes stay: nobody here changes them.
extern "C" void trireme_simt_switch(void** save, void* load);
asm(R"(
.text
.globl trireme_simt_switch
.type trireme_simt_switch, @function
trireme_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size trireme_simt_switch, .-trireme_simt_switch
)");

namespace trireme::simt {
namespace {

constexpr size_t kGuardBytes = 4096;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kStackBytes = size_t{512} << 10;
#else
constexpr size_t kStackBytes = size_t{128} << 10;
#endif

thread_local Fiber* starting = nullptr;

}  // namespace

Fiber::Fiber() {
  void* memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(memory != MAP_FAILED) << "no memory for a fiber's stack";
  CHECK_EQ(mprotect(memory, kGuardBytes, PROT_NONE), 0);
  memory_ = static_cast<std::byte*>(memory);
#if defined(__SANITIZE_THREAD__)
  sanitizer_fiber_ = __tsan_create_fiber(0);
#endif
}

Fiber::~Fiber() {
#if defined(__SANITIZE_THREAD__)
  __tsan_destroy_fiber(sanitizer_fiber_);
#endif
  munmap(memory_, kGuardBytes + kStackBytes);
}

void Fiber::Start(void (*entry)(void*), void* argument) {
  entry_ = entry;
  argument_ = argument;
  fake_stack_ = nullptr;
  auto* top = reinterpret_cast<uint64_t*>(memory_ + kGuardBytes + kStackBytes);
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory_ + kGuardBytes, kStackBytes);
#endif
  // As trireme_simt_switch leaves a stack: six registers, where to go on, and above it the return
  // address of Main, which has none.
  std::memset(top - 8, 0, 64);
  top[-2] = reinterpret_cast<uint64_t>(&Fiber::Main);
  here_ = top - 8;
}

void Fiber::Resume() {
  starting = this;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, memory_ + kGuardBytes, kStackBytes);
  trireme_simt_switch(&caller_, here_);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
#if defined(__SANITIZE_THREAD__)
  sanitizer_caller_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(sanitizer_fiber_, 0);
#endif
  trireme_simt_switch(&caller_, here_);
#endif
}

void Fiber::Arrived(void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, &caller_bottom_, &caller_bytes_);
#endif
}

void Fiber::LeaveFor(void** save, bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, caller_bottom_, caller_bytes_);
#elif defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(sanitizer_caller_, 0);
#endif
  trireme_simt_switch(save, caller_);
}

void Fiber::Yield() {
  LeaveFor(&here_, /*for_good=*/false);
  Arrived(fake_stack_);
}

void Fiber::Main() {
  Fiber* fiber = starting;
  fiber->Arrived(nullptr);
  fiber->entry_(fiber->argument_);
  fiber->LeaveFor(&fiber->here_, /*for_good=*/true);
  LOG(FATAL) << "a finished fiber was resumed";
}

}  // namespace trireme::simt
