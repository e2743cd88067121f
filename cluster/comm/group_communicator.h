// GroupCommunicator: Communicator over a CommEngine, whatever its transport.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/comm/collectives.h"

namespace trireme {

class GroupCommunicator final : public Communicator {
 public:
  GroupCommunicator(std::shared_ptr<CommEngine> engine, std::shared_ptr<CommGroup> group);

  int rank() const override { return group_->rank; }
  int size() const override { return static_cast<int>(group_->members.size()); }
  uint64_t generation() const override { return group_->generation; }
  const std::string& name() const override { return group_->name; }

  Work ReduceScatter(std::span<const BufferRef> partials, std::span<const Piece> pieces,
                     BufferRef out, const SumTree& tree) override;
  Work AllGather(BufferRef buffer, std::span<const Piece> pieces) override;
  Work AllReduce(std::span<const BufferRef> partials, BufferRef out, const SumTree& tree) override;
  Work Broadcast(BufferRef buffer, int root) override;
  Work AllToAll(BufferRef send, std::span<const int64_t> send_counts, BufferRef receive,
                std::span<const int64_t> receive_counts) override;
  Work Send(BufferRef buffer, int peer, int tag) override;
  Work Receive(BufferRef buffer, int peer, int tag) override;
  Work Barrier() override;
  void Revoke(const std::string& reason) override;

 private:
  Work Submit(std::shared_ptr<CommOperation> operation);
  void AddDoubling(ForwardOperation& operation, BufferRef buffer,
                   const ElementRanges& ranges_of) const;

  std::shared_ptr<CommEngine> engine_;
  std::shared_ptr<CommGroup> group_;
  uint32_t sequence_ = 0;
  std::map<std::pair<int, int>, uint32_t> sends_;  // (peer, tag): messages so far
  std::map<std::pair<int, int>, uint32_t> receives_;
};

// The factory of one rank; `finish` runs after the progress thread has ended.
class EngineFactory final : public CommunicatorFactory {
 public:
  explicit EngineFactory(std::shared_ptr<CommEngine> engine) : engine_(std::move(engine)) {}
  std::unique_ptr<Communicator> Create(const std::string& name, std::vector<int> members,
                                       uint16_t group_id, uint64_t generation) override;
  int world_rank() const override { return engine_->world_rank(); }
  int world_size() const override { return engine_->world_size(); }

 private:
  std::shared_ptr<CommEngine> engine_;
};

}  // namespace trireme
