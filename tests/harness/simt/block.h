// Runs a kernel on the CPU: the threads of a block are fibers that switch at barriers and warp
// operations, blocks follow one another. What CUDA leaves undefined is an error here: a barrier
// that not all threads of a block reach, a warp operation whose mask names a lane that does not
// come, a race on shared memory, an index out of its bounds.
//
// Every OS thread can run kernels; each runs its own, with no state shared but the settings.
#pragma once

#include <simt/dim3.h>
#include <simt/fiber.h>
#include <simt/shared_memory.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace trireme::simt {

inline constexpr int kWarpSize = 32;

// What a kernel did wrong, in one line: what, the array and index or the operation, thread, block,
// launch. Comes out of RunGrid, or of the runtime call that ran the kernel.
class KernelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Threads and blocks run in an order that the seed shuffles, each launch another way; seed 0:
// ascending. 1 at first. For all threads of the process.
void SetOrderSeed(uint64_t seed);

// Calls body() once for each thread of the grid. `name` says in errors which launch it was.
void RunGrid(dim3 grid, dim3 block, const std::string& name, const std::function<void()>& body);

// An operation that lanes of a warp enter together.
enum class WarpOperation : uint8_t { kSync, kShuffle, kBallot };

// The block that this OS thread is running.
class Block {
 public:
  Block(dim3 grid, dim3 size, const std::string& name, const std::function<void()>* body);

  static Block& Current();
  static bool Running();

  // Runs all threads of the block at `index`, in the order given.
  void Run(uint3 index, const std::vector<int>& order);

  // What a running thread calls.
  void SyncThreads();
  // Waits for the lanes of the mask. Shuffle: returns the value of lane `source`. Ballot: a bit
  // for each lane of the mask whose value is not 0. `what` names the operation in errors.
  uint64_t Warp(WarpOperation operation, const char* what, uint32_t mask, uint64_t value,
                int source);
  SharedMemory& shared() { return shared_; }
  int lane() const { return running_ % kWarpSize; }
  AccessPoint Here() const;
  // Whether what was done at `before` is ordered before what the running thread does now.
  bool HappenedBefore(const AccessPoint& before) const;
  [[noreturn]] void Fail(const std::string& what) const;
  std::string ThreadName(int thread) const;
  // The running thread, its block and the launch.
  std::string Where() const;

 private:
  enum class State : uint8_t { kReady, kAtBarrier, kInWarp, kDone };
  struct Request {
    WarpOperation operation;
    const char* what;
    uint32_t mask;
    uint64_t value;
    int source;
  };
  struct Thread {
    uint3 index;
    State state = State::kReady;
    bool started = false;  // has something on its stack
    Request request;
    uint64_t result;
    // Of each lane of the warp, how far its time is known to have passed; one's own is now.
    std::array<uint32_t, kWarpSize> seen;
    Fiber* fiber = nullptr;  // of the OS thread, which keeps it for the next block
  };

  void RunThread();
  void Switch();
  bool Sweep(const std::vector<int>& order);
  bool TryCompleteWarp(uint32_t mask);
  void Complete(int warp_begin, uint32_t mask);
  std::string WhyStuck() const;
  std::string Waits(int thread) const;
  void Cancel();

  const dim3 grid_, size_;
  const std::string name_;
  const std::function<void()>* body_;
  uint3 index_{};
  std::vector<Thread> threads_;
  SharedMemory shared_;
  int running_ = 0;
  int at_barrier_ = 0;
  int done_ = 0;
  uint32_t epoch_ = 0;  // barriers passed
  bool cancelled_ = false;
  std::string error_;  // of the first thread that failed
};

}  // namespace trireme::simt
