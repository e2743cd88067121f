#include <glog/logging.h>
#include <simt/block.h>
#include <simt/builtins.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <numeric>
#include <utility>

#include "cluster/base/rng.h"
#include "cluster/base/status.h"

namespace trireme::simt {
namespace {

std::atomic<uint64_t> order_seed{1};
std::atomic<uint64_t> launches{0};
thread_local Block* current_block = nullptr;

constexpr int kThreadsMax = 1024;
constexpr unsigned kGridYZMax = 65535;

// Unwinds the other threads of a block once one has failed.
struct Cancelled {};

int64_t Count(dim3 size) { return int64_t{size.x} * size.y * size.z; }

uint3 IndexOf(int64_t i, dim3 size) {
  return {static_cast<unsigned>(i % size.x), static_cast<unsigned>(i / size.x % size.y),
          static_cast<unsigned>(i / size.x / size.y)};
}

std::string Text(uint3 index) { return StrCat("(", index.x, ", ", index.y, ", ", index.z, ")"); }

// 0 .. n - 1, shuffled unless the seed is 0.
std::vector<int> Order(int n, uint64_t seed, uint64_t use) {
  std::vector<int> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (seed == 0) return order;
  const CounterRng rng(seed, RngUse::kTest, use);
  for (int i = n - 1; i > 0; --i) std::swap(order[i], order[rng.Below(i + 1, i)]);
  return order;
}

void CheckShape(dim3 grid, dim3 block, const std::string& name) {
  if (Count(block) < 1 || Count(block) > kThreadsMax || block.z > 64) {
    throw KernelError(StrCat("simt: a block of ", block.x, " x ", block.y, " x ", block.z,
                             " threads, launch ", name));
  }
  if (Count(grid) < 1 || grid.x > 0x7fffffffu || grid.y > kGridYZMax || grid.z > kGridYZMax) {
    throw KernelError(
        StrCat("simt: a grid of ", grid.x, " x ", grid.y, " x ", grid.z, " blocks, launch ", name));
  }
}

}  // namespace

void SetOrderSeed(uint64_t seed) { order_seed = seed; }

void RunGrid(dim3 grid, dim3 block, const std::string& name, const std::function<void()>& body) {
  CheckShape(grid, block, name);
  CHECK(current_block == nullptr) << "a kernel launched a kernel";
  const uint64_t seed = order_seed, launch = launches++;
  Block runner(grid, block, name, &body);
  current_block = &runner;
  const auto old_block = std::exchange(blockDim, block);
  const auto old_grid = std::exchange(gridDim, grid);
  struct Restore {
    dim3 block, grid;
    ~Restore() {
      current_block = nullptr;
      blockDim = block;
      gridDim = grid;
    }
  } restore{old_block, old_grid};
  const std::vector<int> threads = Order(static_cast<int>(Count(block)), seed, 2 * launch);
  for (int i : Order(static_cast<int>(Count(grid)), seed, 2 * launch + 1)) {
    runner.Run(IndexOf(i, grid), threads);
  }
}

Block::Block(dim3 grid, dim3 size, const std::string& name, const std::function<void()>* body)
    : grid_(grid), size_(size), name_(name), body_(body), threads_(Count(size)) {
  for (size_t i = 0; i < threads_.size(); ++i) threads_[i].index = IndexOf(i, size);
}

Block& Block::Current() {
  CHECK(current_block != nullptr) << "device code was called outside a kernel";
  return *current_block;
}
bool Block::Running() { return current_block != nullptr; }

void Block::Run(uint3 index, const std::vector<int>& order) {
  // Stacks are kept by the OS thread: a launch is too short to make new ones.
  thread_local std::vector<std::unique_ptr<Fiber>> fibers;
  while (fibers.size() < threads_.size()) fibers.push_back(std::make_unique<Fiber>());
  index_ = index;
  blockIdx = index;
  at_barrier_ = done_ = 0;
  epoch_ = 0;
  shared_.Forget();
  for (size_t i = 0; i < threads_.size(); ++i) {
    Thread& thread = threads_[i];
    thread.state = State::kReady;
    thread.started = false;
    thread.seen.fill(0);
    thread.seen[i % kWarpSize] = 1;
    thread.fiber = fibers[i].get();
    thread.fiber->Start([](void* block) { static_cast<Block*>(block)->RunThread(); }, this);
  }
  while (done_ < static_cast<int>(threads_.size())) {
    const bool moved = Sweep(order);
    if (!error_.empty()) break;
    if (!moved) {
      error_ = WhyStuck();
      break;
    }
  }
  if (error_.empty()) return;
  Cancel();
  throw KernelError(error_);
}

// Every thread that can run does, until it waits or is done. Whether there was one.
bool Block::Sweep(const std::vector<int>& order) {
  bool moved = false;
  for (int i : order) {
    if (threads_[i].state != State::kReady) continue;
    moved = true;
    running_ = i;
    threads_[i].started = true;
    threadIdx = threads_[i].index;
    threads_[i].fiber->Resume();
    if (!error_.empty()) break;
  }
  return moved;
}

void Block::RunThread() {
  const int me = running_;
  try {
    (*body_)();
  } catch (const Cancelled&) {
  } catch (const std::exception& error) {
    if (error_.empty()) error_ = error.what();
  }
  threads_[me].state = State::kDone;
  ++done_;
}

void Block::Switch() {
  const int me = running_;
  threads_[me].fiber->Yield();
  if (cancelled_) throw Cancelled();
}

void Block::Cancel() {
  cancelled_ = true;
  for (size_t i = 0; i < threads_.size(); ++i) {
    if (!threads_[i].started || threads_[i].state == State::kDone) continue;
    running_ = static_cast<int>(i);
    threads_[i].fiber->Resume();
  }
}

void Block::SyncThreads() {
  Thread& me = threads_[running_];
  if (++at_barrier_ < static_cast<int>(threads_.size())) {
    me.state = State::kAtBarrier;
    Switch();
    return;
  }
  at_barrier_ = 0;
  ++epoch_;
  for (Thread& thread : threads_) {
    if (thread.state == State::kAtBarrier) thread.state = State::kReady;
  }
}

uint64_t Block::Warp(WarpOperation operation, const char* what, uint32_t mask, uint64_t value,
                     int source) {
  Thread& me = threads_[running_];
  if ((mask >> lane() & 1) == 0) Fail(StrCat(what, " with a mask that leaves its own lane out"));
  me.request = {operation, what, mask, value, source};
  me.state = State::kInWarp;
  if (!TryCompleteWarp(mask)) Switch();
  return me.result;
}

bool Block::TryCompleteWarp(uint32_t mask) {
  const int begin = running_ - lane();
  const Request& mine = threads_[running_].request;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    const size_t other = begin + lane;
    if (other >= threads_.size()) {
      Fail(StrCat(mine.what, " names lane ", lane, ", which this block does not have"));
    }
    const Thread& thread = threads_[other];
    if (thread.state != State::kInWarp || thread.request.operation != mine.operation ||
        thread.request.mask != mask) {
      return false;
    }
  }
  Complete(begin, mask);
  return true;
}

void Block::Complete(int warp_begin, uint32_t mask) {
  Thread* lanes = threads_.data() + warp_begin;
  uint64_t votes = 0;
  std::array<uint32_t, kWarpSize> joined{};
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    if (lanes[lane].request.value != 0) votes |= uint64_t{1} << lane;
    for (int i = 0; i < kWarpSize; ++i) joined[i] = std::max(joined[i], lanes[lane].seen[i]);
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((mask >> lane & 1) == 0) continue;
    Thread& thread = lanes[lane];
    thread.state = State::kReady;
    const Request& request = thread.request;
    switch (request.operation) {
      case WarpOperation::kSync:  // the only one that orders memory
        thread.seen = joined;
        ++thread.seen[lane];
        break;
      case WarpOperation::kShuffle:
        if ((mask >> request.source & 1) == 0) {
          running_ = warp_begin + lane;
          Fail(StrCat(request.what, " reads lane ", request.source, ", which its mask leaves out"));
        }
        thread.result = lanes[request.source].request.value;
        break;
      case WarpOperation::kBallot:
        thread.result = votes;
        break;
    }
  }
}

AccessPoint Block::Here() const {
  return {running_, epoch_, threads_[running_].seen[running_ % kWarpSize]};
}

bool Block::HappenedBefore(const AccessPoint& before) const {
  if (before.thread == running_ || before.epoch < epoch_) return true;
  if (before.thread / kWarpSize != running_ / kWarpSize) return false;
  return threads_[running_].seen[before.thread % kWarpSize] >= before.time;
}

std::string Block::ThreadName(int thread) const {
  return StrCat("thread ", Text(threads_[thread].index));
}

std::string Block::Where() const {
  return StrCat(ThreadName(running_), ", block ", Text(index_), ", launch ", name_);
}

void Block::Fail(const std::string& what) const {
  throw KernelError(StrCat("simt: ", what, "; ", Where()));
}

std::string Block::Waits(int thread) const {
  const Thread& t = threads_[thread];
  switch (t.state) {
    case State::kDone:
      return StrCat(ThreadName(thread), " has returned");
    case State::kAtBarrier:
      return StrCat(ThreadName(thread), " waits at __syncthreads");
    case State::kInWarp:
      return StrCat(ThreadName(thread), " waits in ", t.request.what);
    case State::kReady:
      break;
  }
  return StrCat(ThreadName(thread), " runs");
}

// Nobody can run: a lane waits for one that does not come, or a thread stays away from the barrier.
std::string Block::WhyStuck() const {
  const auto place = StrCat("; block ", Text(index_), ", launch ", name_);
  for (size_t i = 0; i < threads_.size(); ++i) {
    if (threads_[i].state != State::kInWarp) continue;
    const Request& request = threads_[i].request;
    const size_t begin = i / kWarpSize * kWarpSize;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if ((request.mask >> lane & 1) == 0) continue;
      const Thread& other = threads_[begin + lane];
      if (other.state == State::kInWarp && other.request.operation == request.operation &&
          other.request.mask == request.mask) {
        continue;
      }
      return StrCat("simt: divergence at ", request.what, ": ", ThreadName(static_cast<int>(i)),
                    " waits for lane ", lane, " of its mask, but ",
                    Waits(static_cast<int>(begin) + lane),
                    other.state == State::kInWarp ? " with another mask or operation" : "", place);
    }
  }
  std::string waits, stays;
  for (size_t i = 0; i < threads_.size(); ++i) {
    const bool at_barrier = threads_[i].state == State::kAtBarrier;
    std::string& text = at_barrier ? waits : stays;
    if (text.empty()) text = Waits(static_cast<int>(i));
  }
  return StrCat("simt: missing barrier: ", waits, ", but ", stays, place);
}

}  // namespace trireme::simt
