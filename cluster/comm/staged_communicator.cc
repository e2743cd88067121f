#include "cluster/comm/staged_communicator.h"

#include <map>
#include <utility>

#include "cluster/comm/group_checks.h"
#include "cluster/comm/staged_tasks.h"

namespace trireme {
namespace {

using Kind = CommOperation::Kind;

class StagedGroup final : public DeviceGroup {
 public:
  StagedGroup(std::shared_ptr<CommGroup> group, std::unique_ptr<Communicator> host, Stream* compute)
      : DeviceGroup(std::move(group)),
        host(std::move(host)),
        stage(std::make_shared<HostStage>(compute)),
        tasks(stage) {}
  bool Advance() override { return tasks.Advance(); }
  bool busy() const override { return !tasks.empty(); }
  void End(const std::string& reason) override {
    host->Revoke(reason);
    tasks.End(reason);
  }

  const std::unique_ptr<Communicator> host;
  const std::shared_ptr<HostStage> stage;
  StagedTasks tasks;
};

class StagedCommunicator final : public Communicator {
 public:
  StagedCommunicator(std::shared_ptr<DeviceEngine> engine, std::shared_ptr<StagedGroup> state)
      : engine_(std::move(engine)), state_(std::move(state)) {}
  ~StagedCommunicator() override { engine_->CloseGroup(*state_); }

  int rank() const override { return group().rank; }
  int size() const override { return static_cast<int>(group().members.size()); }
  uint64_t generation() const override { return group().generation; }
  const std::string& name() const override { return group().name; }

  Work ReduceScatter(std::span<const BufferRef> partials, std::span<const Piece> pieces,
                     BufferRef out, const SumTree& tree) override {
    CheckPartials(group(), partials, out, tree);
    const std::vector<Piece> kept(pieces.begin(), pieces.end());
    return Reduce(
        Kind::kReduceScatter, partials, out, RangesOf(group(), pieces, out.count)[rank()],
        [state = state_.get(), kept, tree](std::span<const BufferRef> in, BufferRef sums) {
          return state->host->ReduceScatter(in, kept, sums, tree);
        });
  }

  Work AllReduce(std::span<const BufferRef> partials, BufferRef out, const SumTree& tree) override {
    CheckPartials(group(), partials, out, tree);
    return Reduce(Kind::kAllReduce, partials, out, {{0, out.count}},
                  [state = state_.get(), tree](std::span<const BufferRef> in, BufferRef sums) {
                    return state->host->AllReduce(in, sums, tree);
                  });
  }

  Work AllGather(BufferRef buffer, std::span<const Piece> pieces) override {
    const std::vector<Piece> kept(pieces.begin(), pieces.end());
    const ElementRanges ranges_of = RangesOf(group(), pieces, buffer.count);
    Draft draft(this, Kind::kAllGather, sequence_++);
    const BufferRef host = draft.Host(buffer);
    draft.CopyOut(buffer, host, ranges_of[rank()]);
    for (int owner = 0; owner < size(); ++owner) {
      if (owner != rank()) draft.CopyBackLater(buffer, host, ranges_of[owner]);
    }
    return draft.Submit(
        [state = state_.get(), host, kept] { return state->host->AllGather(host, kept); });
  }

  Work Broadcast(BufferRef buffer, int root) override {
    CHECK(root >= 0 && root < size()) << group().Describe() << ": broadcast from rank " << root;
    Draft draft(this, Kind::kBroadcast, sequence_++);
    const BufferRef host = draft.Host(buffer);
    if (rank() == root) {
      draft.CopyOut(buffer, host, {{0, buffer.count}});
    } else {
      draft.CopyBackLater(buffer, host, {{0, buffer.count}});
    }
    return draft.Submit(
        [state = state_.get(), host, root] { return state->host->Broadcast(host, root); });
  }

  Work AllToAll(BufferRef send, std::span<const int64_t> send_counts, BufferRef receive,
                std::span<const int64_t> receive_counts) override {
    const auto to = BlocksOf(group(), send_counts, send.count);
    const auto from = BlocksOf(group(), receive_counts, receive.count);
    Draft draft(this, Kind::kAllToAll, sequence_++);
    const BufferRef out = draft.Host(send), in = draft.Host(receive);
    draft.CopyOut(send, out, {{0, to.back().end}});
    draft.CopyBackLater(receive, in, {{0, from.back().end}});
    return draft.Submit(
        [state = state_.get(), out, in,
         counts_out = std::vector<int64_t>(send_counts.begin(), send_counts.end()),
         counts_in = std::vector<int64_t>(receive_counts.begin(), receive_counts.end())] {
          return state->host->AllToAll(out, counts_out, in, counts_in);
        });
  }

  Work Send(BufferRef buffer, int peer, int tag) override {
    CHECK(peer >= 0 && peer < size() && peer != rank()) << group().Describe() << ": to " << peer;
    Draft draft(this, Kind::kSend, sends_[{peer, tag}]++);
    const BufferRef host = draft.Host(buffer);
    draft.CopyOut(buffer, host, {{0, buffer.count}});
    return draft.Submit(
        [state = state_.get(), host, peer, tag] { return state->host->Send(host, peer, tag); });
  }

  Work Receive(BufferRef buffer, int peer, int tag) override {
    CHECK(peer >= 0 && peer < size() && peer != rank()) << group().Describe() << ": from " << peer;
    Draft draft(this, Kind::kReceive, receives_[{peer, tag}]++);
    const BufferRef host = draft.Host(buffer);
    draft.CopyBackLater(buffer, host, {{0, buffer.count}});
    return draft.Submit(
        [state = state_.get(), host, peer, tag] { return state->host->Receive(host, peer, tag); });
  }

  Work Barrier() override {
    Draft draft(this, Kind::kBarrier, sequence_++);
    return draft.Submit([state = state_.get()] { return state->host->Barrier(); });
  }

  Status Settle(Micros timeout) override { return engine_->Settle(*state_, timeout); }
  void Revoke(const std::string& reason) override { engine_->Revoke(*state_, reason); }

 private:
  // An operation in the making. `submit` must capture the state and not this object: the operation
  // can outlive its communicator.
  class Draft {
   public:
    Draft(StagedCommunicator* communicator, Kind kind, uint32_t sequence)
        : communicator_(*communicator), stage_(*communicator->state_->stage) {
      task_.operation =
          std::make_shared<DeviceOperation>(kind, communicator->state_->group, sequence);
    }
    // Pinned memory of the buffer's size.
    BufferRef Host(BufferRef buffer) {
      auto memory = stage_.Pinned(buffer.bytes());
      task_.operation->held.push_back(memory);
      return {memory.get(), buffer.count, buffer.dtype};
    }
    void CopyOut(BufferRef from, BufferRef to, const std::vector<ElementRange>& ranges) {
      for (const ElementRange& range : ranges) out_.push_back({from, to, range});
    }
    void CopyBackLater(BufferRef to, BufferRef from, const std::vector<ElementRange>& ranges) {
      for (const ElementRange& range : ranges) back_.push_back({from, to, range});
    }
    Work Submit(std::function<Work()> submit) {
      task_.submit = std::move(submit);
      if (!back_.empty()) {
        task_.copy_back = [back = std::move(back_), stream = stage_.copies] {
          for (const Part& part : back) part.Enqueue(*stream);
        };
      }
      auto operation = task_.operation;
      const StreamEvent called = stage_.compute->Record();
      communicator_.engine_->Submit(operation, *communicator_.state_, [&] {
        stage_.copies->Wait(called);
        for (const Part& part : out_) part.Enqueue(*stage_.copies);
        task_.inputs_copied = stage_.copies->Record();
        communicator_.state_->tasks.Add(std::move(task_));
      });
      return Work(std::make_shared<DeviceWork>(communicator_.engine_, operation));
    }

   private:
    struct Part {
      BufferRef from, to;
      ElementRange range;
      void Enqueue(Stream& stream) const {
        const int64_t width = ByteSize(from.dtype);
        stream.Copy(static_cast<std::byte*>(to.data) + range.begin * width,
                    static_cast<const std::byte*>(from.data) + range.begin * width,
                    (range.end - range.begin) * width);
      }
    };
    StagedCommunicator& communicator_;
    HostStage& stage_;
    StagedTask task_;
    std::vector<Part> out_, back_;
  };

  template <typename F>
  Work Reduce(Kind kind, std::span<const BufferRef> partials, BufferRef out,
              const std::vector<ElementRange>& mine, const F& run) {
    Draft draft(this, kind, sequence_++);
    std::vector<BufferRef> in;
    for (const BufferRef& partial : partials) {
      in.push_back(draft.Host(partial));
      draft.CopyOut(partial, in.back(), {{0, partial.count}});
    }
    const BufferRef sums = in.empty() ? draft.Host(out) : in[0];
    draft.CopyBackLater(out, sums, mine);
    return draft.Submit([run, in, sums] { return run(in, sums); });
  }

  const CommGroup& group() const { return *state_->group; }

  std::shared_ptr<DeviceEngine> engine_;
  std::shared_ptr<StagedGroup> state_;
  uint32_t sequence_ = 0;
  std::map<std::pair<int, int>, uint32_t> sends_, receives_;
};

class StagedFactory final : public CommunicatorFactory {
 public:
  StagedFactory(CommunicatorFactory* host, Stream* compute)
      : host_(host), compute_(compute), engine_(std::make_shared<DeviceEngine>("trireme-staged")) {}
  ~StagedFactory() override { engine_->Stop(); }

  std::unique_ptr<Communicator> Create(const std::string& name, std::vector<int> members,
                                       uint16_t group_id, uint64_t generation) override {
    auto group = CommGroup::Make(name, members, group_id, generation, world_rank(), world_size());
    auto state = std::make_shared<StagedGroup>(
        std::move(group), host_->Create(name, std::move(members), group_id, generation), compute_);
    engine_->AddGroup(state);
    return std::make_unique<StagedCommunicator>(engine_, std::move(state));
  }
  int world_rank() const override { return host_->world_rank(); }
  int world_size() const override { return host_->world_size(); }

 private:
  CommunicatorFactory* host_;
  Stream* compute_;
  std::shared_ptr<DeviceEngine> engine_;
};

}  // namespace

std::unique_ptr<CommunicatorFactory> StagedWorld(CommunicatorFactory* host, Stream* compute) {
  return std::make_unique<StagedFactory>(host, compute);
}

}  // namespace trireme
