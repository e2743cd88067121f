// Communicator: collectives and messages among a fixed group of ranks. The collectives are the
// program's own, over point-to-point messages that carry the group's generation, in the order of
// sums of SumTree; thread, MPI (and later NCCL) transports run under one conformance suite.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cluster/base/clock.h"
#include "cluster/base/status.h"
#include "cluster/comm/sum_tree.h"
#include "cluster/device/dtype.h"

namespace trireme {

class Stream;

// Elements in memory that the caller keeps alive and untouched until the Work is done, or abandoned
// and later released by the transport's graveyard (see Work::Abandon).
struct BufferRef {
  void* data = nullptr;
  int64_t count = 0;
  DType dtype = DType::kF32;
  int64_t bytes() const { return count * ByteSize(dtype); }
};

// Elements [begin, end) of a buffer belong to rank `owner` of the group.
struct Piece {
  int owner;
  int64_t begin;
  int64_t end;
};

// An operation in flight. Move-only; destroying one that is neither done nor abandoned CHECK-fails.
class Work {
 public:
  class State;  // declared by the implementation
  Work();
  explicit Work(std::shared_ptr<State> state);
  ~Work();
  Work(Work&&) noexcept;
  Work& operator=(Work&&) noexcept;

  bool valid() const;
  // True once the operation has ended, well or not. Never blocks.
  bool Test() const;
  // Blocks at most `timeout`. kDeadlineExceeded names the operation, group, sequence number and the
  // ranks that were still waited for, and leaves it in flight; kUnavailable: a peer is lost or the
  // group's generation is over.
  Status Wait(Micros timeout);
  // Lets `stream` go on behind the operation: what it is given from here on finds the results and
  // may use the buffers. On a GPU this blocks until the operation is on its way there, elsewhere
  // until it is done, at most `timeout`; errors as those of Wait. When it is OK the Work is spent:
  // what becomes of the operation is told by Communicator::Settle.
  Status Follow(Stream& stream, Micros timeout);
  // Follow where there is a follower, else Wait.
  Status WaitOrFollow(Stream* follower, Micros timeout) {
    return follower == nullptr ? Wait(timeout) : Follow(*follower, timeout);
  }
  // Gives the operation up: its requests are dropped and the memory they may still touch goes to
  // the graveyard with it (`keep_alive`), so that the caller can go on at once. To be called after
  // an error of Wait too, where the caller would free or reuse that memory.
  void Abandon(std::shared_ptr<void> keep_alive = nullptr);
  // The text of a deadline that ran out after `waited`, for one who waits in other ways.
  std::string DescribeWait(Micros waited) const;

 private:
  std::shared_ptr<State> state_;
};

// All members call the same collectives in the same order; operations with different `Communicator`
// objects are independent. Calls return at once; a progress thread that sleeps when idle drives
// them. Thread-compatible: one thread at a time calls an object.
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;  // within the group
  virtual int size() const = 0;
  virtual uint64_t generation() const = 0;
  virtual const std::string& name() const = 0;  // "data", "tensor", ... for messages

  // Sums `partials` (this rank's SumTree::Partials, in order; equal counts; f32, bf16, f64 or i64)
  // over the group in tree order; each node of a bf16 sum adds in f32 and rounds. After it, of each
  // piece this rank owns, `out` holds the sum; the rest of `out` is unspecified. `out` may be
  // partials[0]. Direct exchange: the owner receives every contribution of its pieces and adds them
  // in tree order.
  virtual Work ReduceScatter(std::span<const BufferRef> partials, std::span<const Piece> pieces,
                             BufferRef out, const SumTree& tree) = 0;
  // Every rank's own pieces are copied to the same place of `buffer` on all ranks. Any dtype.
  virtual Work AllGather(BufferRef buffer, std::span<const Piece> pieces) = 0;
  // ReduceScatter and AllGather over an even cut; the same bits.
  virtual Work AllReduce(std::span<const BufferRef> partials, BufferRef out,
                         const SumTree& tree) = 0;
  // The common case: one leaf a rank, in rank order, in place.
  Work AllReduce(BufferRef buffer);
  virtual Work Broadcast(BufferRef buffer, int root) = 0;
  // Block j of `send` (send_counts[j] elements) goes to rank j; block i of `receive` comes from i.
  virtual Work AllToAll(BufferRef send, std::span<const int64_t> send_counts, BufferRef receive,
                        std::span<const int64_t> receive_counts) = 0;
  // Matched by (peer, tag) in the order of calls. Sizes must agree: else kInternal at the receiver.
  virtual Work Send(BufferRef buffer, int peer, int tag) = 0;
  virtual Work Receive(BufferRef buffer, int peer, int tag) = 0;
  virtual Work Barrier() = 0;

  // Waits for all operations that streams follow, and tells the first error among them: only then
  // is what was made of their results worth anything. Nothing to do for memory of the host.
  virtual Status Settle(Micros timeout) { return OkStatus(); }

  // From here on operations are rehearsed: each makes what it will need on this rank and is over;
  // no message goes, buffers stay as they are. For memory of GPUs, where making something may wait
  // for kernels that wait for peers. Communicators that have no such trouble run them as ever.
  virtual void BeginRehearsal() {}
  // The end of that: connects with the peers that the operations would have met. All members
  // rehearse the same, and end it at the same place. Errors as those of Work::Wait.
  virtual Status EndRehearsal(Micros timeout) { return OkStatus(); }

  // Ends the group: everything in flight and later ends with kUnavailable and this reason.
  // Callable from any thread.
  virtual void Revoke(const std::string& reason) = 0;
};

// The even cut of `count` elements among `ranks`, in multiples of `unit` elements.
std::vector<Piece> EvenPieces(int64_t count, int ranks, int64_t unit = 16);

// Makes communicators for groups of this process' (or thread's) rank.
class CommunicatorFactory {
 public:
  virtual ~CommunicatorFactory() = default;
  // members: world ranks, ascending, this one among them. Purely local: no message is sent, so
  // nobody can hang in it. `group_id` tells groups of one generation apart; the same on all
  // members, and used once a generation by each rank. A communicator of a newer generation than any
  // before revokes those before it, and messages of theirs are dropped.
  virtual std::unique_ptr<Communicator> Create(const std::string& name, std::vector<int> members,
                                               uint16_t group_id, uint64_t generation) = 0;
  virtual int world_rank() const = 0;
  virtual int world_size() const = 0;
};

// `ranks` factories whose ranks are threads of this process. They share memory; messages are copied
// once.
std::vector<std::unique_ptr<CommunicatorFactory>> ThreadWorld(int ranks);

// The MPI world of this process: MPI is initialised on first use. kNotBuilt without MPI;
// kInvalidArgument when the process was not started by mpirun or srun.
// MPI is called by one thread at a time: the object's progress thread, or a caller inside Wait.
// Every process of the job calls this, those that join no group too: MPI starts on all or hangs.
Result<std::unique_ptr<CommunicatorFactory>> MpiWorld();
// What the launcher says through the environment, before MPI is touched.
struct LaunchInfo {
  bool launched = false;  // by mpirun or srun
  int rank = 0;
  int size = 1;
};
LaunchInfo DetectLaunch();

}  // namespace trireme
