#include <algorithm>
#include <utility>

#include "cluster/comm/comm_engine.h"

namespace trireme {

std::string CommGroup::Describe() const {
  return StrCat("group '", name, "' (id ", id, ", generation ", generation, ")");
}

std::string CommGroup::DescribeWait(Micros waited, const std::vector<int>& waiting,
                                    const std::vector<int>& silent) const {
  const auto list = [this](const std::vector<int>& ranks) {
    std::string text = ranks.size() == 1 ? "rank " : "ranks ";
    for (size_t i = 0; i < ranks.size(); ++i) text += StrCat(i > 0 ? ", " : "", ranks[i]);
    text += " (of the world: ";
    for (size_t i = 0; i < ranks.size(); ++i) {
      text += StrCat(i > 0 ? ", " : "", members[ranks[i]]);
    }
    return text + ")";
  };
  std::string text = StrCat(" on rank ", rank, ": not done after ", waited / 1000,
                            " ms, waiting for ", list(waiting));
  if (!silent.empty()) text += StrCat("; nothing heard from ", list(silent));
  return text;
}

std::shared_ptr<CommGroup> CommGroup::Make(const std::string& name, std::vector<int> members,
                                           uint16_t id, uint64_t generation, int world_rank,
                                           int world_size) {
  CHECK(std::is_sorted(members.begin(), members.end()) &&
        std::adjacent_find(members.begin(), members.end()) == members.end())
      << "group '" << name << "': members are not ascending";
  CHECK(!members.empty() && members.front() >= 0 && members.back() < world_size)
      << "group '" << name << "': members outside the world of " << world_size;
  const auto me = std::find(members.begin(), members.end(), world_rank);
  CHECK(me != members.end()) << "group '" << name << "' without its own rank " << world_rank;
  auto group = std::make_shared<CommGroup>();
  group->name = name;
  group->rank = static_cast<int>(me - members.begin());
  group->members = std::move(members);
  group->id = id;
  group->generation = generation;
  return group;
}

CommOperation::CommOperation(Kind kind, std::shared_ptr<CommGroup> group, uint32_t sequence)
    : kind(kind), group(std::move(group)), sequence(sequence) {}

CommOperation::~CommOperation() = default;

const char* CommOperation::KindName(Kind kind) {
  switch (kind) {
    case Kind::kReduceScatter:
      return "ReduceScatter";
    case Kind::kAllGather:
      return "AllGather";
    case Kind::kAllReduce:
      return "AllReduce";
    case Kind::kBroadcast:
      return "Broadcast";
    case Kind::kAllToAll:
      return "AllToAll";
    case Kind::kSend:
      return "Send";
    case Kind::kReceive:
      return "Receive";
    case Kind::kBarrier:
      return "Barrier";
  }
  return "?";
}

std::string CommOperation::Describe() const {
  return StrCat(KindName(kind), " ", sequence, " of ", group->Describe());
}

void CommOperation::Finish(Status end_status) {
  if (finished()) return;
  status = std::move(end_status);
  ended.store(true, std::memory_order_release);
}

Transfer* CommOperation::AddTransfer(bool send, int member, int32_t slot, StreamLayout layout) {
  CHECK_NE(member, group->rank) << KindName(kind) << ": a rank does not send to itself";
  auto transfer = std::make_unique<Transfer>();
  transfer->peer = group->members[member];
  transfer->key.generation = group->generation;
  transfer->key.group = group->id;
  transfer->key.collective = kind != Kind::kSend && kind != Kind::kReceive;
  transfer->key.slot = slot;
  transfer->key.sequence = sequence;
  transfer->operation = static_cast<uint8_t>(kind == Kind::kReceive ? Kind::kSend : kind);
  transfer->send = send;
  transfer->layout = std::move(layout);
  transfers.push_back(std::move(transfer));
  return transfers.back().get();
}

bool CommOperation::AllComplete() const {
  for (const auto& transfer : transfers) {
    if (!transfer->complete) return false;
  }
  return true;
}

std::string CommOperation::DescribeWait(Micros waited) const {
  std::vector<int> waiting;
  std::vector<int> silent;
  for (size_t member = 0; member < group->members.size(); ++member) {
    bool incomplete = false;
    bool heard = false;
    for (const auto& transfer : transfers) {
      if (transfer->peer != group->members[member]) continue;
      incomplete = incomplete || !transfer->complete;
      heard = heard || transfer->heard;
    }
    if (incomplete) waiting.push_back(static_cast<int>(member));
    if (incomplete && !heard) silent.push_back(static_cast<int>(member));
  }
  return Describe() + group->DescribeWait(waited, waiting, silent);
}

Status MismatchError(const Transfer& receive, uint8_t operation_sent, int64_t bytes_sent) {
  const auto name = [](uint8_t operation) {
    return CommOperation::KindName(static_cast<CommOperation::Kind>(operation));
  };
  return InternalError(StrCat("message ", receive.key.sequence, " of group id ", receive.key.group,
                              " from world rank ", receive.peer, ": it sent ", bytes_sent,
                              " bytes in ", name(operation_sent), ", expected ",
                              receive.layout.bytes(), " bytes in ", name(receive.operation)));
}

}  // namespace trireme
