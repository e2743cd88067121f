#include "cluster/comm/nccl_group.h"

#include <algorithm>
#include <utility>

namespace trireme {
namespace {

// A collective that takes longer is talked about.
constexpr Micros kNoticeAfter = 10'000;

}  // namespace

std::byte* CollectiveScratch::Take(int64_t bytes, DeviceOperation* operation) {
  if (areas_.empty() || areas_.back()->bytes() < bytes) {
    areas_.push_back(std::make_shared<Buffer>(DeviceMemory(*compute_, bytes)));
  }
  operation->held.push_back(areas_.back());
  return areas_.back()->data();
}

NcclGroup::NcclGroup(const nccl::Api* api, std::shared_ptr<NcclReaper> reaper,
                     std::shared_ptr<CommGroup> shared_group, std::unique_ptr<Communicator> host,
                     std::unique_ptr<Communicator> control, Stream* compute)
    : DeviceGroup(std::move(shared_group)),
      api(api),
      host(std::move(host)),
      control(std::move(control)),
      stage(std::make_shared<HostStage>(compute)),
      scratch(compute),
      messages(api, reaper, group, this->host.get(), this->control.get(), stage),
      collectives_(
          api, reaper, {group->Describe(), group->rank, static_cast<int>(group->members.size())},
          SideStream(*compute),
          [by = this->control.get()](nccl::UniqueId* id) { return by->Broadcast(BytesOf(id), 0); }),
      barriers_(stage),
      peers_(group->members.size()) {}

NcclGroup::~NcclGroup() {
  for (Peer& peer : peers_) {
    if (peer.receiving.valid()) peer.receiving.Abandon(peer.arriving);
  }
  for (Telling& telling : telling_) telling.work.Abandon(telling.entered);
}

bool NcclGroup::busy() const {
  return collectives_.busy() || messages.busy() || !barriers_.empty() || !telling_.empty();
}

void NcclGroup::End(const std::string& reason) {
  host->Revoke(reason);
  control->Revoke(reason);
  collectives_.End(reason);
  messages.End(reason);
  barriers_.End(reason);
  unfinished_.clear();
}

void NcclGroup::Enter(const std::shared_ptr<DeviceOperation>& operation) {
  entered_ = operation->sequence + 1;
  operation->describe_wait = [this, sequence = operation->sequence](Micros waited) {
    return DescribeWait(sequence, waited);
  };
  unfinished_.push_back(operation);
}

void NcclGroup::AddCollective(std::shared_ptr<DeviceOperation> operation, StreamEvent called,
                              std::vector<NcclChannel::Step> steps) {
  Enter(operation);
  collectives_.Add(std::move(operation), std::move(called), std::move(steps));
}

void NcclGroup::AddBarrier(std::shared_ptr<DeviceOperation> operation, StreamEvent called) {
  StagedTask task;
  task.operation = operation;
  task.inputs_copied = std::move(called);
  task.submit = [this] { return host->Barrier(); };
  barriers_.Add(std::move(task));
  Enter(operation);
}

bool NcclGroup::Advance() {
  bool progressed = collectives_.Advance();
  progressed |= messages.Advance();
  progressed |= barriers_.Advance();
  while (!unfinished_.empty() && unfinished_.front()->finished()) unfinished_.pop_front();
  if (!group->revoked) progressed |= AdvanceNotices();
  // A broken communicator ends the group, so that no later operation waits for it.
  if (const Status& status = collectives_.status(); !status.ok() && !group->revoked) {
    group->revoked = true;
    group->revoke_reason = status.message();
    End(status.message());
    progressed = true;
  }
  return progressed;
}

bool NcclGroup::AdvanceNotices() {
  std::erase_if(telling_, [](Telling& telling) { return telling.work.Test(); });
  const int size = static_cast<int>(peers_.size());
  const bool late = size > 1 && !unfinished_.empty() &&
                    RealClock().NowMicros() - unfinished_.front()->begun > kNoticeAfter;
  bool progressed = false;
  for (int r = 0; r < size; ++r) {
    Peer& peer = peers_[r];
    if (r == group->rank) continue;
    const auto listen = [&] {
      peer.arriving = std::make_shared<int64_t>(0);
      peer.receiving = control->Receive(BytesOf(peer.arriving.get()), r, kNoticeTag);
    };
    bool asked = false;
    if (late && !peer.receiving.valid()) listen();
    while (peer.receiving.valid() && peer.receiving.Test()) {
      if (!peer.receiving.Wait(0).ok()) break;  // the group is over
      peer.entered = std::max(peer.entered, *peer.arriving);
      asked = progressed = true;
      listen();
    }
    if ((late || asked) && peer.told < entered_) {
      peer.told = entered_;
      auto entered = std::make_shared<int64_t>(entered_);
      Work work = control->Send(BytesOf(entered.get()), r, kNoticeTag);
      telling_.push_back({std::move(entered), std::move(work)});
    }
  }
  return progressed;
}

std::string NcclGroup::DescribeWait(int64_t sequence, Micros waited) const {
  std::vector<int> waiting, silent;
  for (int r = 0; r < static_cast<int>(peers_.size()); ++r) {
    if (r == group->rank) continue;
    waiting.push_back(r);
    if (peers_[r].entered <= sequence) silent.push_back(r);
  }
  return group->DescribeWait(waited, waiting, silent);
}

}  // namespace trireme
