#include "cluster/comm/group_communicator.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace trireme {
namespace {

using Kind = CommOperation::Kind;
using Range = ElementRange;

// Up to this many ranks, each piece of an AllGather goes straight to everyone: one hop.
constexpr int kDirectGatherRanksMax = 8;
// Up to this size a broadcast goes down a binomial tree; beyond, it is a scatter and a gather.
constexpr int64_t kTreeBroadcastBytes = 64 << 10;

std::vector<const Transfer*> SourcesOf(const Transfer* source) {
  return source == nullptr ? std::vector<const Transfer*>{} : std::vector{source};
}

}  // namespace

GroupCommunicator::GroupCommunicator(std::shared_ptr<CommEngine> engine,
                                     std::shared_ptr<CommGroup> group)
    : engine_(std::move(engine)), group_(std::move(group)) {}

Work GroupCommunicator::Submit(std::shared_ptr<CommOperation> operation) {
  engine_->Submit(operation);
  return Work(std::make_shared<EngineWork>(engine_, std::move(operation)));
}

Work GroupCommunicator::ReduceScatter(std::span<const BufferRef> partials,
                                      std::span<const Piece> pieces, BufferRef out,
                                      const SumTree& tree) {
  CheckPartials(*group_, partials, out, tree);
  return Submit(std::make_shared<ReduceOperation>(Kind::kReduceScatter, group_, sequence_++,
                                                  partials, RangesOf(*group_, pieces, out.count),
                                                  out, tree,
                                                  /*gather=*/false));
}

Work GroupCommunicator::AllReduce(std::span<const BufferRef> partials, BufferRef out,
                                  const SumTree& tree) {
  CheckPartials(*group_, partials, out, tree);
  const bool flat = out.bytes() <= kFlatBytesMax && size() <= kFlatRanksMax;
  ElementRanges ranges_of(size());
  if (flat) {
    for (auto& ranges : ranges_of) ranges.push_back({0, out.count});
  } else {
    ranges_of = RangesOf(*group_, EvenPieces(out.count, size()), out.count);
  }
  return Submit(std::make_shared<ReduceOperation>(Kind::kAllReduce, group_, sequence_++, partials,
                                                  ranges_of, out, tree, /*gather=*/!flat));
}

Work GroupCommunicator::AllGather(BufferRef buffer, std::span<const Piece> pieces) {
  auto operation = std::make_shared<ForwardOperation>(Kind::kAllGather, group_, sequence_++);
  const auto ranges_of = RangesOf(*group_, pieces, buffer.count);
  if (size() > kDirectGatherRanksMax && std::has_single_bit(static_cast<unsigned>(size()))) {
    AddDoubling(*operation, buffer, ranges_of);
    return Submit(std::move(operation));
  }
  for (int distance = 1; distance < size(); ++distance) {
    const int source = (rank() + size() - distance) % size();
    if (!ranges_of[source].empty()) {
      operation->AddReceive(source, 0, LayoutOf(buffer, ranges_of[source]));
    }
    if (!ranges_of[rank()].empty()) {
      operation->AddSend((rank() + distance) % size(), 0, LayoutOf(buffer, ranges_of[rank()]));
    }
  }
  return Submit(std::move(operation));
}

// Recursive doubling: with partner rank ^ d, for d = 1, 2, 4, ..., a rank swaps all it has by then:
// its own pieces, those of rank ^ 1, of rank ^ 2, ... What it still waits for is passed on as it
// comes. log2(size) messages a rank in place of size - 1, of the same bytes.
void GroupCommunicator::AddDoubling(ForwardOperation& operation, BufferRef buffer,
                                    const ElementRanges& ranges_of) const {
  const auto pieces_at = [&](int holder, int distance) {
    std::vector<Range> ranges;
    for (int j = 0; j < distance; ++j) {
      const auto& of_owner = ranges_of[holder ^ j];
      ranges.insert(ranges.end(), of_owner.begin(), of_owner.end());
    }
    return LayoutOf(buffer, ranges);
  };
  std::vector<const Transfer*> arrivals;
  for (int distance = 1; distance < size(); distance *= 2) {
    const int partner = rank() ^ distance;
    StreamLayout out = pieces_at(rank(), distance);
    if (out.bytes() > 0) operation.AddSend(partner, 0, std::move(out), arrivals);
    StreamLayout in = pieces_at(partner, distance);
    if (in.bytes() > 0) arrivals.push_back(operation.AddReceive(partner, 0, std::move(in)));
  }
}

Work GroupCommunicator::Broadcast(BufferRef buffer, int root) {
  CHECK(root >= 0 && root < size()) << group_->Describe() << ": broadcast from rank " << root;
  auto operation = std::make_shared<ForwardOperation>(Kind::kBroadcast, group_, sequence_++);
  const int n = size();
  if (buffer.count == 0) return Submit(std::move(operation));
  if (n == 2 || buffer.bytes() <= kTreeBroadcastBytes) {
    const std::vector<Range> all = {{0, buffer.count}};
    const int place = (rank() - root + n) % n;  // the root is 0; parents clear the lowest bit
    Transfer* source = nullptr;
    int bit = 1;
    while (bit < n && (place & bit) == 0) bit *= 2;
    if (place != 0) {
      source = operation->AddReceive((place - bit + root) % n, 0, LayoutOf(buffer, all));
    }
    for (bit /= 2; bit >= 1; bit /= 2) {
      if (place + bit < n) {
        operation->AddSend((place + bit + root) % n, 0, LayoutOf(buffer, all), SourcesOf(source));
      }
    }
    return Submit(std::move(operation));
  }
  const auto ranges_of = RangesOf(*group_, EvenPieces(buffer.count, n), buffer.count);
  for (int owner = 0; owner < n; ++owner) {
    const StreamLayout piece = LayoutOf(buffer, ranges_of[owner]);
    if (piece.bytes() == 0) continue;
    // The root hands each rank its piece; a piece's owner (or the root) gives it to all others.
    Transfer* source = nullptr;
    if (rank() != root) {
      source = operation->AddReceive(rank() == owner ? root : owner, owner, piece);
    } else if (owner != root) {
      operation->AddSend(owner, owner, piece);
    }
    if (rank() != owner) continue;
    for (int distance = 1; distance < n; ++distance) {
      const int target = (rank() + distance) % n;
      if (target != root) operation->AddSend(target, owner, piece, SourcesOf(source));
    }
  }
  return Submit(std::move(operation));
}

Work GroupCommunicator::AllToAll(BufferRef send, std::span<const int64_t> send_counts,
                                 BufferRef receive, std::span<const int64_t> receive_counts) {
  const auto to = BlocksOf(*group_, send_counts, send.count);
  const auto from = BlocksOf(*group_, receive_counts, receive.count);
  CHECK_EQ(send_counts[rank()], receive_counts[rank()]) << group_->Describe();
  auto operation = std::make_shared<ForwardOperation>(Kind::kAllToAll, group_, sequence_++);
  for (int distance = 0; distance < size(); ++distance) {
    const int target = (rank() + distance) % size();
    const int source = (rank() + size() - distance) % size();
    StreamLayout out = LayoutOf(send, {to[target]});
    StreamLayout in = LayoutOf(receive, {from[source]});
    if (distance == 0) {
      if (in.bytes() > 0) std::memcpy(in.At(0), out.At(0), in.bytes());
      continue;
    }
    if (in.bytes() > 0) operation->AddReceive(source, 0, std::move(in));
    if (out.bytes() > 0) operation->AddSend(target, 0, std::move(out));
  }
  return Submit(std::move(operation));
}

Work GroupCommunicator::Send(BufferRef buffer, int peer, int tag) {
  CHECK(peer >= 0 && peer < size() && peer != rank()) << group_->Describe() << ": send to " << peer;
  auto operation = std::make_shared<ForwardOperation>(Kind::kSend, group_, sends_[{peer, tag}]++);
  operation->AddSend(peer, tag, LayoutOf(buffer, {{0, buffer.count}}));
  return Submit(std::move(operation));
}

Work GroupCommunicator::Receive(BufferRef buffer, int peer, int tag) {
  CHECK(peer >= 0 && peer < size() && peer != rank())
      << group_->Describe() << ": receive from " << peer;
  auto operation =
      std::make_shared<ForwardOperation>(Kind::kReceive, group_, receives_[{peer, tag}]++);
  operation->AddReceive(peer, tag, LayoutOf(buffer, {{0, buffer.count}}));
  return Submit(std::move(operation));
}

Work GroupCommunicator::Barrier() {
  return Submit(std::make_shared<BarrierOperation>(group_, sequence_++));
}

void GroupCommunicator::Revoke(const std::string& reason) { engine_->Revoke(*group_, reason); }

std::unique_ptr<Communicator> EngineFactory::Create(const std::string& name,
                                                    std::vector<int> members, uint16_t group_id,
                                                    uint64_t generation) {
  auto group =
      CommGroup::Make(name, std::move(members), group_id, generation, world_rank(), world_size());
  engine_->AddGroup(group);
  return std::make_unique<GroupCommunicator>(engine_, std::move(group));
}

}  // namespace trireme
