#include "cluster/comm/nccl_communicator.h"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "cluster/comm/group_checks.h"
#include "cluster/comm/nccl_group.h"
#include "cluster/device/ordered_sum.h"

namespace trireme {
namespace {

using Kind = CommOperation::Kind;
using Steps = std::vector<NcclChannel::Step>;
using Ranges = std::vector<ElementRange>;

constexpr uint16_t kControlIds = 0x8000;

std::byte* At(BufferRef buffer, int64_t element) {
  return static_cast<std::byte*>(buffer.data) + element * ByteSize(buffer.dtype);
}

// Vectors of NCCL's copies; at other addresses it goes byte by byte.
constexpr int64_t kCopyBytes = 16;

// The same lengths one behind the other, each where NCCL copies vectors: sender and receiver cut
// their messages alike.
Ranges Packed(const Ranges& ranges, DType dtype) {
  const int64_t step = kCopyBytes / ByteSize(dtype);
  Ranges packed;
  int64_t begin = 0;
  for (const ElementRange& range : ranges) {
    packed.push_back({begin, begin + range.end - range.begin});
    begin = (packed.back().end + step - 1) / step * step;
  }
  return packed;
}

// Calls of NCCL that begin together. Errors come out of End; a call that goes on is not one.
class NcclCalls {
 public:
  explicit NcclCalls(const nccl::Api* api) : api_(api) { Note(api_->GroupStart()); }
  void Note(int result) {
    if (result == nccl::kInProgress || result == nccl::kSuccess) return;
    if (error_ == nccl::kSuccess) error_ = result;
  }
  int End() {
    const int result = api_->GroupEnd();
    return error_ != nccl::kSuccess ? error_ : result;
  }

 private:
  const nccl::Api* api_;
  int error_ = nccl::kSuccess;
};

// A message of one group call.
struct Part {
  bool send;
  int peer;
  std::byte* data;
  int64_t bytes;
};

// All in one group call: each pair of ranks lists what goes between them in the same order.
NcclChannel::Step ExchangeStep(const nccl::Api* api, std::vector<Part> parts) {
  return [api, parts = std::move(parts)](nccl::Comm comm, Stream& stream) -> int {
    if (parts.empty()) return nccl::kSuccess;
    void* native = stream.native();
    NcclCalls calls(api);
    for (const Part& part : parts) {
      calls.Note(part.send
                     ? api->Send(part.data, part.bytes, nccl::kUint8, part.peer, comm, native)
                     : api->Recv(part.data, part.bytes, nccl::kUint8, part.peer, comm, native));
    }
    return calls.End();
  };
}

// The tree over all contributions, as a stack machine reads it.
void AppendOrder(const std::vector<SumTree::Contribution>& contributions, SumTree::Node node,
                 std::vector<uint8_t>* additions) {
  for (const auto& contribution : contributions) {
    if (contribution.node == node) {
      additions->push_back(0);
      return;
    }
  }
  AppendOrder(contributions, SumTree::Left(node), additions);
  AppendOrder(contributions, SumTree::Right(node), additions);
  ++additions->back();
}

SumOrder OrderOf(const SumTree& tree) {
  std::vector<uint8_t> additions;
  AppendOrder(tree.Contributions(), {0, tree.leaves()}, &additions);
  return SumOrder(additions);
}

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<DeviceEngine> engine, std::shared_ptr<NcclGroup> state,
                   bool fast_sums)
      : engine_(std::move(engine)),
        state_(std::move(state)),
        api_(state_->api),
        fast_sums_(fast_sums) {}
  ~NcclCommunicator() override { engine_->CloseGroup(*state_); }

  int rank() const override { return group().rank; }
  int size() const override { return static_cast<int>(group().members.size()); }
  uint64_t generation() const override { return group().generation; }
  const std::string& name() const override { return group().name; }

  Work ReduceScatter(std::span<const BufferRef> partials, std::span<const Piece> pieces,
                     BufferRef out, const SumTree& tree) override {
    CheckPartials(group(), partials, out, tree);
    auto operation = Make(Kind::kReduceScatter, sequence_++);
    const ElementRanges ranges_of = RangesOf(group(), pieces, out.count);
    if (fast_sums_ && size() > 1) return FastReduceScatter(operation, partials, out, ranges_of);
    return Collective(operation, SumSteps(*operation, partials, out, ranges_of, tree));
  }

  Work AllReduce(std::span<const BufferRef> partials, BufferRef out, const SumTree& tree) override {
    CheckPartials(group(), partials, out, tree);
    auto operation = Make(Kind::kAllReduce, sequence_++);
    if (fast_sums_ && size() > 1) return FastAllReduce(operation, partials, out);
    if (out.bytes() <= kFlatBytesMax && size() <= kFlatRanksMax) {
      const ElementRanges all(size(), {{0, out.count}});
      return Collective(operation, SumSteps(*operation, partials, out, all, tree));
    }
    const ElementRanges ranges_of = RangesOf(group(), EvenPieces(out.count, size()), out.count);
    Steps steps = SumSteps(*operation, partials, out, ranges_of, tree);
    steps.push_back(GatherStep(out, ranges_of));
    return Collective(operation, std::move(steps));
  }

  Work AllGather(BufferRef buffer, std::span<const Piece> pieces) override {
    auto operation = Make(Kind::kAllGather, sequence_++);
    return Collective(operation, {GatherStep(buffer, RangesOf(group(), pieces, buffer.count))});
  }

  Work Broadcast(BufferRef buffer, int root) override {
    CHECK(root >= 0 && root < size()) << group().Describe() << ": broadcast from rank " << root;
    auto operation = Make(Kind::kBroadcast, sequence_++);
    if (size() == 1 || buffer.count == 0) return Collective(operation, {});
    return Collective(operation, {[api = api_, buffer, root](nccl::Comm comm, Stream& stream) {
                        return api->Broadcast(buffer.data, buffer.data, buffer.bytes(),
                                              nccl::kUint8, root, comm, stream.native());
                      }});
  }

  Work AllToAll(BufferRef send, std::span<const int64_t> send_counts, BufferRef receive,
                std::span<const int64_t> receive_counts) override {
    const auto to = BlocksOf(group(), send_counts, send.count);
    const auto from = BlocksOf(group(), receive_counts, receive.count);
    CHECK_EQ(send_counts[rank()], receive_counts[rank()]) << group().Describe();
    auto operation = Make(Kind::kAllToAll, sequence_++);
    std::vector<Part> parts;
    for (int distance = 1; distance < size(); ++distance) {
      const int target = (rank() + distance) % size();
      const int source = (rank() + size() - distance) % size();
      AddParts(&parts, true, target, send, {to[target]});
      AddParts(&parts, false, source, receive, {from[source]});
    }
    const int64_t own_bytes = send_counts[rank()] * ByteSize(send.dtype);
    std::byte* own_in = At(receive, from[rank()].begin);
    const std::byte* own_out = At(send, to[rank()].begin);
    return Collective(operation, {[=](nccl::Comm, Stream& stream) -> int {
                                    if (own_bytes > 0) stream.Copy(own_in, own_out, own_bytes);
                                    return nccl::kSuccess;
                                  },
                                  ExchangeStep(api_, std::move(parts))});
  }

  Work Send(BufferRef buffer, int peer, int tag) override {
    CheckMessage(peer, tag);
    auto operation = Make(Kind::kSend, sends_[{peer, tag}]++);
    if (rehearsing_) return RehearseMessage(operation, rank(), peer, buffer);
    return Submit(operation, [&](StreamEvent called) {
      state_->messages.Send(operation, std::move(called), buffer, peer, tag);
    });
  }

  Work Receive(BufferRef buffer, int peer, int tag) override {
    CheckMessage(peer, tag);
    auto operation = Make(Kind::kReceive, receives_[{peer, tag}]++);
    if (rehearsing_) return RehearseMessage(operation, peer, rank(), buffer);
    return Submit(operation, [&](StreamEvent called) {
      state_->messages.Receive(operation, std::move(called), buffer, peer, tag);
    });
  }

  Work Barrier() override {
    auto operation = Make(Kind::kBarrier, sequence_++);
    if (rehearsing_) return Over(operation);
    return Submit(operation,
                  [&](StreamEvent called) { state_->AddBarrier(operation, std::move(called)); });
  }

  Status Settle(Micros timeout) override { return engine_->Settle(*state_, timeout); }
  void Revoke(const std::string& reason) override { engine_->Revoke(*state_, reason); }

  void BeginRehearsal() override { rehearsing_ = true; }

  Status EndRehearsal(Micros timeout) override {
    rehearsing_ = false;
    if (std::exchange(meets_all_, false)) {
      auto operation = Make(Kind::kBarrier, sequence_++);
      ElementRanges ranges_of;
      for (int r = 0; r < size(); ++r) ranges_of.push_back({{r, r + 1}});
      const BufferRef area{state_->scratch.Take(size(), operation.get()), size(), DType::kU8};
      RETURN_IF_ERROR(Connected(Collective(operation, {GatherStep(area, ranges_of)}), timeout));
    }
    for (const Direction& direction : std::exchange(directions_, {})) {
      const auto& [round, sender, receiver] = direction;
      auto operation = Make(sender == rank() ? Kind::kSend : Kind::kReceive, 0);
      const BufferRef area{state_->scratch.Take(1, operation.get()), 1, DType::kU8};
      Work work = Submit(operation, [&, s = sender, r = receiver](StreamEvent called) {
        state_->messages.Connect(operation, std::move(called), area, s, r);
      });
      RETURN_IF_ERROR(Connected(std::move(work), timeout));
    }
    return OkStatus();
  }

 private:
  using Operation = std::shared_ptr<DeviceOperation>;
  // Two neighbours that messages go between, (round, sender, receiver). All ranks connect theirs in
  // this order, so nobody waits in a circle; along a row of ranks, every other link is in one
  // round.
  using Direction = std::tuple<int, int, int>;

  Work Over(const Operation& operation) const {
    operation->Finish(OkStatus());
    return Work(std::make_shared<DeviceWork>(engine_, operation));
  }
  Work RehearseMessage(const Operation& operation, int sender, int receiver, BufferRef buffer) {
    if (buffer.bytes() <= kEagerBytes) {
      (void)state_->stage->Pinned(buffer.bytes());
    } else {
      directions_.insert({std::min(sender, receiver) % 2, sender, receiver});
    }
    return Over(operation);
  }
  static Status Connected(Work work, Micros timeout) {
    const Status status = work.Wait(timeout);
    if (status.ok()) return status;
    work.Abandon();
    return status.WithContext("connecting");
  }

  const CommGroup& group() const { return *state_->group; }
  Operation Make(Kind kind, uint32_t sequence) const {
    return std::make_shared<DeviceOperation>(kind, state_->group, sequence);
  }
  void CheckMessage(int peer, int tag) const {
    CHECK(peer >= 0 && peer < size() && peer != rank())
        << group().Describe() << ": a message between rank " << rank() << " and " << peer;
    CHECK_GE(tag, 0) << group().Describe() << ": tags below 0 are NCCL's control messages";
  }

  template <typename F>
  Work Submit(const Operation& operation, const F& add) {
    StreamEvent called = state_->stage->compute->Record();
    engine_->Submit(operation, *state_, [&] { add(std::move(called)); });
    return Work(std::make_shared<DeviceWork>(engine_, operation));
  }
  Work Collective(const Operation& operation, Steps steps) {
    if (rehearsing_) {
      meets_all_ = true;
      return Over(operation);
    }
    return Submit(operation, [&](StreamEvent called) {
      state_->AddCollective(operation, std::move(called), std::move(steps));
    });
  }

  static void AddParts(std::vector<Part>* parts, bool send, int peer, BufferRef buffer,
                       const Ranges& ranges) {
    const int64_t width = ByteSize(buffer.dtype);
    for (const ElementRange& range : ranges) {
      if (range.begin == range.end) continue;
      parts->push_back({send, peer, At(buffer, range.begin), (range.end - range.begin) * width});
    }
  }

  // Direct exchange: contributions go to the owner of each piece, which adds them in tree order.
  Steps SumSteps(DeviceOperation& operation, std::span<const BufferRef> partials, BufferRef out,
                 const ElementRanges& ranges_of, const SumTree& tree) {
    std::vector<Part> parts;
    for (int distance = 1; distance < size(); ++distance) {
      const int owner = (rank() + distance) % size();
      for (const BufferRef& partial : partials) {
        AddParts(&parts, true, owner, partial, ranges_of[owner]);
      }
    }
    const Ranges mine = ranges_of[rank()];
    const Ranges packed = Packed(mine, out.dtype);
    if (packed.empty() || packed.back().end == 0) return {ExchangeStep(api_, std::move(parts))};
    // Where each contribution's own elements are: in place, or packed in the scratch area.
    struct Input {
      BufferRef buffer;
      bool local;
    };
    const int64_t area_bytes = Arena::RoundUp(packed.back().end * ByteSize(out.dtype));
    const std::vector<SumTree::Contribution> contributions = tree.Contributions();
    const int64_t remote =
        std::count_if(contributions.begin(), contributions.end(),
                      [&](const auto& contribution) { return contribution.rank != rank(); });
    std::byte* area = state_->scratch.Take(remote * area_bytes, &operation);
    std::vector<Input> inputs;
    for (const auto& contribution : contributions) {
      if (contribution.rank == rank()) {
        inputs.push_back({partials[contribution.index], true});
        continue;
      }
      inputs.push_back({{area, packed.back().end, out.dtype}, false});
      area += area_bytes;
      AddParts(&parts, false, contribution.rank, inputs.back().buffer, packed);
    }
    const auto add = [inputs, mine, packed, out, order = OrderOf(tree)](nccl::Comm,
                                                                        Stream& stream) -> int {
      for (size_t i = 0; i < mine.size(); ++i) {
        std::vector<const void*> pointers;
        for (const Input& input : inputs) {
          pointers.push_back(At(input.buffer, input.local ? mine[i].begin : packed[i].begin));
        }
        SumInOrder(stream, out.dtype, order, pointers, At(out, mine[i].begin),
                   mine[i].end - mine[i].begin);
      }
      return nccl::kSuccess;
    };
    return {ExchangeStep(api_, std::move(parts)), add};
  }

  NcclChannel::Step GatherStep(BufferRef buffer, const ElementRanges& ranges_of) {
    std::vector<Part> parts;
    for (int distance = 1; distance < size(); ++distance) {
      const int target = (rank() + distance) % size();
      const int source = (rank() + size() - distance) % size();
      AddParts(&parts, true, target, buffer, ranges_of[rank()]);
      AddParts(&parts, false, source, buffer, ranges_of[source]);
    }
    return ExchangeStep(api_, std::move(parts));
  }

  // NCCL adds one buffer a rank: this rank's partial sums become one first, zeros without any.
  BufferRef OwnSum(DeviceOperation& operation, std::span<const BufferRef> partials, BufferRef out,
                   Steps* steps) {
    if (partials.size() == 1) return partials[0];
    const BufferRef sum = {state_->scratch.Take(out.bytes(), &operation), out.count, out.dtype};
    std::vector<const void*> inputs;
    for (const BufferRef& partial : partials) inputs.push_back(partial.data);
    steps->push_back([inputs, sum](nccl::Comm, Stream& stream) -> int {
      if (inputs.empty()) {
        stream.Fill(sum.data, 0, sum.bytes());
      } else {
        std::vector<uint8_t> additions(inputs.size(), 1);
        additions[0] = 0;
        SumInOrder(stream, sum.dtype, SumOrder(additions), inputs, sum.data, sum.count);
      }
      return nccl::kSuccess;
    });
    return sum;
  }

  Work FastAllReduce(const Operation& operation, std::span<const BufferRef> partials,
                     BufferRef out) {
    Steps steps;
    const BufferRef in = OwnSum(*operation, partials, out, &steps);
    const int type = nccl::SumTypeOf(out.dtype);
    if (out.count > 0) {
      steps.push_back([api = api_, in, out, type](nccl::Comm comm, Stream& stream) {
        return api->AllReduce(in.data, out.data, out.count, type, nccl::kSum, comm,
                              stream.native());
      });
    }
    return Collective(operation, std::move(steps));
  }

  Work FastReduceScatter(const Operation& operation, std::span<const BufferRef> partials,
                         BufferRef out, const ElementRanges& ranges_of) {
    Steps steps;
    const BufferRef in = OwnSum(*operation, partials, out, &steps);
    const int type = nccl::SumTypeOf(out.dtype);
    const int64_t each = out.count / size();
    bool even = each > 0;  // each rank owns one of `size` equal blocks, in rank order
    for (int r = 0; r < size(); ++r) {
      even = even && ranges_of[r].size() == 1 && ranges_of[r][0].begin == r * each &&
             ranges_of[r][0].end == (r + 1) * each;
    }
    const int me = rank();
    steps.push_back([=, api = api_](nccl::Comm comm, Stream& stream) -> int {
      if (even) {
        return api->ReduceScatter(in.data, At(out, me * each), each, type, nccl::kSum, comm,
                                  stream.native());
      }
      void* native = stream.native();
      NcclCalls calls(api);
      for (size_t owner = 0; owner < ranges_of.size(); ++owner) {
        for (const ElementRange& range : ranges_of[owner]) {
          calls.Note(api->Reduce(At(in, range.begin), At(out, range.begin), range.end - range.begin,
                                 type, nccl::kSum, static_cast<int>(owner), comm, native));
        }
      }
      return calls.End();
    });
    return Collective(operation, std::move(steps));
  }

  std::shared_ptr<DeviceEngine> engine_;
  std::shared_ptr<NcclGroup> state_;
  const nccl::Api* api_;
  const bool fast_sums_;
  bool rehearsing_ = false;
  bool meets_all_ = false;          // in the rehearsal
  std::set<Direction> directions_;  // of its messages
  uint32_t sequence_ = 0;
  std::map<std::pair<int, int>, uint32_t> sends_, receives_;  // (peer, tag): messages so far
};

class NcclFactory final : public CommunicatorFactory {
 public:
  NcclFactory(const nccl::Api* api, CommunicatorFactory* host, Stream* compute,
              const NcclOptions& options)
      : api_(api),
        host_(host),
        compute_(compute),
        options_(options),
        reaper_(std::make_shared<NcclReaper>(api, options.abort_patience)),
        engine_(std::make_shared<DeviceEngine>("trireme-nccl")) {
    LoadSumKernels(*compute);
  }
  ~NcclFactory() override {
    engine_->Stop();
    engine_.reset();
    reaper_->Drain();  // last messages may still be on their way
  }

  std::unique_ptr<Communicator> Create(const std::string& name, std::vector<int> members,
                                       uint16_t group_id, uint64_t generation) override {
    CHECK_LT(group_id, kControlIds) << "group '" << name << "'";
    auto group = CommGroup::Make(name, members, group_id, generation, world_rank(), world_size());
    auto host = host_->Create(name, members, group_id, generation);
    auto control = host_->Create(name, members, group_id | kControlIds, generation);
    auto state = std::make_shared<NcclGroup>(api_, reaper_, std::move(group), std::move(host),
                                             std::move(control), compute_);
    engine_->AddGroup(state);
    return std::make_unique<NcclCommunicator>(engine_, std::move(state), options_.fast_sums);
  }
  int world_rank() const override { return host_->world_rank(); }
  int world_size() const override { return host_->world_size(); }

 private:
  const nccl::Api* api_;
  CommunicatorFactory* host_;
  Stream* compute_;
  const NcclOptions options_;
  std::shared_ptr<NcclReaper> reaper_;
  std::shared_ptr<DeviceEngine> engine_;
};

}  // namespace

std::unique_ptr<CommunicatorFactory> MakeNcclFactory(const nccl::Api* api,
                                                     CommunicatorFactory* host, Stream* compute,
                                                     const NcclOptions& options) {
  return std::make_unique<NcclFactory>(api, host, compute, options);
}

Result<std::unique_ptr<CommunicatorFactory>> NcclWorld(CommunicatorFactory* host, Stream* compute,
                                                       const NcclOptions& options) {
  if (compute->device() != DeviceKind::kCuda) {
    return InvalidArgumentError("NCCL moves memory of GPUs, and this rank has none");
  }
  ASSIGN_OR_RETURN(const nccl::Api* api, nccl::Load());
  return MakeNcclFactory(api, host, compute, options);
}

Result<std::string> NcclDescription() {
  ASSIGN_OR_RETURN(const nccl::Api* api, nccl::Load());
  return StrCat(nccl::VersionText(api->version), " (", api->path, ")");
}

}  // namespace trireme
