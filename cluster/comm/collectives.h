// The state machines behind Communicator: what is sent to whom, and what waits for what.
#pragma once

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "cluster/comm/comm_engine.h"
#include "cluster/comm/group_checks.h"
#include "cluster/comm/tree_adder.h"

namespace trireme {

// Messages that start at once, and messages that forward what has arrived so far of another one:
// gathers, broadcasts, all-to-all, send and receive.
class ForwardOperation final : public CommOperation {
 public:
  using CommOperation::CommOperation;
  Transfer* AddReceive(int member, int32_t slot, StreamLayout layout);
  // sources: the receives whose bytes end this message, in its order; what is before them is there
  // already. Theirs is passed on while it arrives.
  void AddSend(int member, int32_t slot, StreamLayout layout,
               std::vector<const Transfer*> sources = {});

  void Start(MessageTransport& transport) override;
  bool Advance(MessageTransport& transport) override;

 private:
  struct Link {
    std::vector<const Transfer*> sources;
    int64_t own_bytes;
    Transfer* target;
  };
  std::vector<Link> links_;
};

// Dissemination: in round k each rank hears from the one 2^k before it, then tells the one after.
class BarrierOperation final : public CommOperation {
 public:
  BarrierOperation(std::shared_ptr<CommGroup> group, uint32_t sequence);
  void Start(MessageTransport& transport) override;
  bool Advance(MessageTransport& transport) override;

 private:
  std::vector<Transfer*> sends_;
  std::vector<Transfer*> receives_;
  size_t posted_ = 0;
};

// Direct exchange: every rank sends its contributions to the owner of each piece; owners add them
// in tree order while they arrive, and for AllReduce send the sums on while they are made.
class ReduceOperation final : public CommOperation {
 public:
  // ranges_of[r]: what rank r owns, disjoint unless `everyone`: then all ranks own everything and
  // nothing is gathered. gather: AllReduce.
  ReduceOperation(Kind kind, std::shared_ptr<CommGroup> group, uint32_t sequence,
                  std::span<const BufferRef> partials, const ElementRanges& ranges_of,
                  BufferRef out, const SumTree& tree, bool gather);
  void Start(MessageTransport& transport) override;
  bool Advance(MessageTransport& transport) override;

 private:
  struct Input {
    Transfer* remote;  // null: a partial of this rank
    StreamLayout local;
    const std::byte* At(int64_t offset) const;
    int64_t ContiguousEnd(int64_t offset) const;
  };
  void AddContributions(std::span<const BufferRef> partials, const ElementRanges& ranges_of,
                        const SumTree& tree);
  void AddGather(std::span<const BufferRef> partials, const ElementRanges& ranges_of,
                 BufferRef out);
  // Adds the contributions that have arrived, a bounded amount; true if there were any.
  bool AddArrived(MessageTransport& transport);

  TreeAdder adder_;
  int64_t element_bytes_;
  StreamLayout mine_;  // of `out`
  std::vector<Input> inputs_;
  std::vector<const std::byte*> pointers_;
  int64_t added_ = 0;
  std::vector<Transfer*> gather_sends_;
  // A gathered piece overwrites a partial in place: not before that partial has left.
  struct Gated {
    const Transfer* before;  // null: no condition
    Transfer* receive;
  };
  std::vector<Gated> gather_receives_;
  std::vector<std::shared_ptr<std::byte[]>> scratch_;
};

// The segments of `ranges` in a buffer.
StreamLayout LayoutOf(BufferRef buffer, const std::vector<ElementRange>& ranges);

// Memory for arrivals, reused from a capped pool: fresh pages cost more than the copies into them.
std::shared_ptr<std::byte[]> TakeScratch(int64_t bytes);

}  // namespace trireme
