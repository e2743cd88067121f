#include "cluster/comm/collectives.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>

namespace trireme {
namespace {

constexpr int32_t kGatherSlot = 1 << 20;        // beyond any number of partials
constexpr int64_t kAddBytesMax = 256 << 10;     // a turn's additions: others wait for the lock
constexpr int64_t kScratchKeptMax = 256 << 20;  // idle scratch

struct HostScratch {
  std::mutex mutex;
  std::multimap<int64_t, std::byte*> idle;
  int64_t idle_bytes = 0;
};

HostScratch& Pool() {
  static auto* pool = new HostScratch;
  return *pool;
}

void GiveBack(std::byte* slab, int64_t bytes) {
  HostScratch& pool = Pool();
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    if (pool.idle_bytes + bytes <= kScratchKeptMax) {
      pool.idle.emplace(bytes, slab);
      pool.idle_bytes += bytes;
      return;
    }
  }
  ::operator delete[](slab, std::align_val_t{64});
}

void SetLimit(MessageTransport& transport, Transfer* transfer, int64_t limit) {
  if (transfer->limit >= limit) return;
  transfer->limit = limit;
  transport.Extend(transfer);
}

}  // namespace

std::shared_ptr<std::byte[]> TakeScratch(int64_t bytes) {
  HostScratch& pool = Pool();
  constexpr int64_t kUnit = 16 << 10;
  bytes = (bytes + kUnit - 1) / kUnit * kUnit;
  std::byte* slab = nullptr;
  {
    std::lock_guard<std::mutex> lock(pool.mutex);
    const auto found = pool.idle.lower_bound(bytes);
    if (found != pool.idle.end() && found->first <= 2 * bytes) {
      bytes = found->first;
      slab = found->second;
      pool.idle_bytes -= bytes;
      pool.idle.erase(found);
    }
  }
  if (slab == nullptr) {
    slab = static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64}));
  }
  return {slab, [bytes](std::byte* memory) { GiveBack(memory, bytes); }};
}

StreamLayout LayoutOf(BufferRef buffer, const std::vector<ElementRange>& ranges) {
  const int64_t size = ByteSize(buffer.dtype);
  std::vector<StreamLayout::Segment> segments;
  for (const auto& range : ranges) {
    segments.push_back({static_cast<std::byte*>(buffer.data) + range.begin * size,
                        (range.end - range.begin) * size});
  }
  return StreamLayout(std::move(segments));
}

Transfer* ForwardOperation::AddReceive(int member, int32_t slot, StreamLayout layout) {
  Transfer* transfer = AddTransfer(false, member, slot, std::move(layout));
  transfer->limit = transfer->layout.bytes();
  return transfer;
}

void ForwardOperation::AddSend(int member, int32_t slot, StreamLayout layout,
                               std::vector<const Transfer*> sources) {
  Transfer* transfer = AddTransfer(true, member, slot, std::move(layout));
  int64_t own_bytes = transfer->layout.bytes();
  for (const Transfer* source : sources) own_bytes -= source->layout.bytes();
  CHECK_GE(own_bytes, 0);
  transfer->limit = own_bytes;
  if (!sources.empty()) links_.push_back({std::move(sources), own_bytes, transfer});
}

void ForwardOperation::Start(MessageTransport& transport) {
  // Sends first: peers may begin while this rank still prepares its receives.
  for (const auto& transfer : transfers) {
    if (transfer->send) transport.Post(transfer.get());
  }
  for (const auto& transfer : transfers) {
    if (!transfer->send) transport.Post(transfer.get());
  }
}

bool ForwardOperation::Advance(MessageTransport& transport) {
  for (const Link& link : links_) {
    int64_t limit = link.own_bytes;
    for (const Transfer* source : link.sources) {
      limit += source->done;
      if (!source->complete) break;
    }
    SetLimit(transport, link.target, limit);
  }
  if (!AllComplete()) return false;
  Finish(OkStatus());
  return true;
}

BarrierOperation::BarrierOperation(std::shared_ptr<CommGroup> shared_group, uint32_t sequence)
    : CommOperation(Kind::kBarrier, std::move(shared_group), sequence) {
  const int size = static_cast<int>(group->members.size());
  for (int distance = 1, round = 0; distance < size; distance *= 2, ++round) {
    receives_.push_back(
        AddTransfer(false, (group->rank + size - distance) % size, round, StreamLayout()));
    sends_.push_back(AddTransfer(true, (group->rank + distance) % size, round, StreamLayout()));
  }
}

void BarrierOperation::Start(MessageTransport& transport) {
  for (Transfer* receive : receives_) transport.Post(receive);
}

bool BarrierOperation::Advance(MessageTransport& transport) {
  const size_t posted_before = posted_;
  while (posted_ < sends_.size() && (posted_ == 0 || receives_[posted_ - 1]->complete)) {
    transport.Post(sends_[posted_++]);
  }
  if (posted_ == sends_.size() && AllComplete()) {
    Finish(OkStatus());
    return true;
  }
  return posted_ != posted_before;
}

const std::byte* ReduceOperation::Input::At(int64_t offset) const {
  return remote != nullptr ? remote->layout.At(offset) : local.At(offset);
}

int64_t ReduceOperation::Input::ContiguousEnd(int64_t offset) const {
  return remote != nullptr ? remote->layout.ContiguousEnd(offset) : local.ContiguousEnd(offset);
}

ReduceOperation::ReduceOperation(Kind kind, std::shared_ptr<CommGroup> shared_group,
                                 uint32_t sequence, std::span<const BufferRef> partials,
                                 const ElementRanges& ranges_of, BufferRef out, const SumTree& tree,
                                 bool gather)
    : CommOperation(kind, std::move(shared_group), sequence),
      adder_(tree, out.dtype),
      element_bytes_(ByteSize(out.dtype)),
      mine_(LayoutOf(out, ranges_of[group->rank])) {
  if (kind == Kind::kAllReduce && !gather && mine_.bytes() > 0) {
    // Everyone owns everything: `out` may be written while a partial in its place is still read.
    std::vector<BufferRef> copies(partials.begin(), partials.end());
    for (BufferRef& copy : copies) {
      if (copy.data != out.data) continue;
      scratch_.push_back(TakeScratch(copy.bytes()));
      std::memcpy(scratch_.back().get(), copy.data, copy.bytes());
      copy.data = scratch_.back().get();
    }
    AddContributions(copies, ranges_of, tree);
    return;
  }
  AddContributions(partials, ranges_of, tree);
  if (gather) AddGather(partials, ranges_of, out);
}

void ReduceOperation::AddContributions(std::span<const BufferRef> partials,
                                       const ElementRanges& ranges_of, const SumTree& tree) {
  const int me = group->rank;
  const int size = static_cast<int>(group->members.size());
  if (mine_.bytes() > 0) {
    for (const auto& contribution : tree.Contributions()) {
      Input input{nullptr, {}};
      if (contribution.rank == me) {
        input.local = LayoutOf(partials[contribution.index], ranges_of[me]);
      } else {
        input.remote = AddTransfer(false, contribution.rank, contribution.index, mine_);
      }
      inputs_.push_back(std::move(input));
    }
    pointers_.resize(inputs_.size());
  }
  // Each rank begins with its successor, so that not all send to the same one at first.
  for (int distance = 1; distance < size; ++distance) {
    const int owner = (me + distance) % size;
    for (size_t k = 0; k < partials.size(); ++k) {
      StreamLayout layout = LayoutOf(partials[k], ranges_of[owner]);
      if (layout.bytes() == 0) continue;
      Transfer* transfer = AddTransfer(true, owner, static_cast<int32_t>(k), std::move(layout));
      transfer->limit = transfer->layout.bytes();
    }
  }
}

void ReduceOperation::AddGather(std::span<const BufferRef> partials, const ElementRanges& ranges_of,
                                BufferRef out) {
  const int size = static_cast<int>(group->members.size());
  int in_place = -1;
  for (size_t k = 0; k < partials.size(); ++k) {
    if (partials[k].data == out.data) in_place = static_cast<int>(k);
  }
  const size_t contributions = transfers.size();
  for (int distance = 1; distance < size; ++distance) {
    const int peer = (group->rank + distance) % size;
    if (mine_.bytes() > 0) {
      gather_sends_.push_back(AddTransfer(true, peer, kGatherSlot, mine_));
    }
    StreamLayout layout = LayoutOf(out, ranges_of[peer]);
    if (layout.bytes() == 0) continue;
    Gated gated{nullptr, AddTransfer(false, peer, kGatherSlot, std::move(layout))};
    for (size_t t = 0; t < contributions && in_place >= 0; ++t) {
      const Transfer* sent = transfers[t].get();
      if (sent->send && sent->peer == gated.receive->peer && sent->key.slot == in_place) {
        gated.before = sent;
      }
    }
    if (gated.before == nullptr) gated.receive->limit = gated.receive->layout.bytes();
    gather_receives_.push_back(gated);
  }
}

void ReduceOperation::Start(MessageTransport& transport) {
  for (const Input& input : inputs_) {
    if (input.remote == nullptr) continue;
    StreamLayout& layout = input.remote->layout;
    const int64_t ahead = transport.chunks_ahead(input.remote->peer);
    const int64_t ring_bytes = std::min(layout.bytes(), ahead * ChunkBytes(layout.bytes()));
    scratch_.push_back(TakeScratch(ring_bytes));
    layout.UseRing(scratch_.back().get(), ring_bytes);
    input.remote->limit = ring_bytes;
  }
  for (const auto& transfer : transfers) {
    if (!transfer->send) transport.Post(transfer.get());
  }
  for (const auto& transfer : transfers) {
    if (transfer->send) transport.Post(transfer.get());
  }
}

bool ReduceOperation::AddArrived(MessageTransport& transport) {
  int64_t arrived = std::min(mine_.bytes(), added_ + kAddBytesMax);
  for (const Input& input : inputs_) {
    if (input.remote != nullptr) arrived = std::min(arrived, input.remote->done);
  }
  if (arrived <= added_) return false;
  while (added_ < arrived) {
    int64_t end = std::min(arrived, mine_.ContiguousEnd(added_));
    for (size_t i = 0; i < inputs_.size(); ++i) {
      pointers_[i] = inputs_[i].At(added_);
      end = std::min(end, inputs_[i].ContiguousEnd(added_));
    }
    adder_.Add(pointers_.data(), mine_.At(added_), (end - added_) / element_bytes_);
    added_ = end;
  }
  for (const Input& input : inputs_) {
    if (input.remote == nullptr) continue;
    const StreamLayout& layout = input.remote->layout;
    SetLimit(transport, input.remote, std::min(layout.bytes(), added_ + layout.ring_bytes()));
  }
  for (Transfer* send : gather_sends_) SetLimit(transport, send, added_);
  return true;
}

bool ReduceOperation::Advance(MessageTransport& transport) {
  bool progressed = AddArrived(transport);
  for (const Gated& gated : gather_receives_) {
    if (gated.before != nullptr) SetLimit(transport, gated.receive, gated.before->done);
  }
  if (added_ == mine_.bytes() && AllComplete()) {
    Finish(OkStatus());
    progressed = true;
  }
  return progressed;
}

}  // namespace trireme
