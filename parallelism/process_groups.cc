#include "parallelism/process_groups.h"

#include <numeric>

namespace trireme {

HostMap IdentityHosts(int ranks, uint64_t generation) {
  HostMap hosts{generation, std::vector<int>(ranks)};
  std::iota(hosts.world_rank_of.begin(), hosts.world_rank_of.end(), 0);
  return hosts;
}

ProcessGroups::ProcessGroups(CommunicatorFactory* factory, const Mesh& mesh, HostMap hosts,
                             int rank, CommunicatorFactory* host)
    : factory_(factory), mesh_(mesh), hosts_(std::move(hosts)), rank_(rank) {
  if (mesh_.size() > 1) {
    CHECK(factory_ != nullptr);
    CHECK_EQ(static_cast<int>(hosts_.world_rank_of.size()), mesh_.size());
    CHECK_EQ(hosts_.world_rank_of[rank_], factory_->world_rank());
  }
  for (int a = 0; a < kAxisCount; ++a) {
    const Axis axis = static_cast<Axis>(a);
    axes_[a] =
        Create(factory_, AxisName(axis), mesh_.Group(rank_, axis), static_cast<uint16_t>(1 + a));
  }
  std::vector<int> all(mesh_.size());
  std::iota(all.begin(), all.end(), 0);
  world_ = Create(host != nullptr ? host : factory_, "world", all, 1 + kAxisCount);
}

std::unique_ptr<Communicator> ProcessGroups::Create(CommunicatorFactory* factory,
                                                    const std::string& name,
                                                    const std::vector<int>& ranks,
                                                    uint16_t group_id) const {
  if (ranks.size() < 2) return nullptr;
  std::vector<int> members;
  for (int rank : ranks) members.push_back(hosts_.world_rank_of[rank]);
  return factory->Create(name, std::move(members), group_id, hosts_.generation);
}

Communicator* ProcessGroups::Among(const std::string& name, const std::vector<int>& ranks,
                                   uint16_t group_id) {
  CHECK_GE(group_id, kFirstFreeId);
  std::unique_ptr<Communicator> group = Create(factory_, name, ranks, group_id);
  if (group == nullptr) return nullptr;
  std::lock_guard<std::mutex> lock(mutex_);
  if (revoked_) group->Revoke(*revoked_);
  others_.push_back(std::move(group));
  return others_.back().get();
}

// All but World(). Without the lock in use: Revoke ends their waits.
std::vector<Communicator*> ProcessGroups::OfTheDevice() {
  std::vector<Communicator*> groups;
  for (const auto& axis : axes_) {
    if (axis != nullptr) groups.push_back(axis.get());
  }
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& other : others_) groups.push_back(other.get());
  return groups;
}

Status ProcessGroups::Settle(Micros timeout) {
  for (Communicator* group : OfTheDevice()) RETURN_IF_ERROR(group->Settle(timeout));
  return OkStatus();
}

void ProcessGroups::BeginRehearsal() {
  for (Communicator* group : OfTheDevice()) group->BeginRehearsal();
}

Status ProcessGroups::EndRehearsal(Micros timeout) {
  for (Communicator* group : OfTheDevice()) RETURN_IF_ERROR(group->EndRehearsal(timeout));
  return OkStatus();
}

void ProcessGroups::Revoke(const std::string& reason) {
  std::lock_guard<std::mutex> lock(mutex_);
  revoked_ = reason;
  if (world_ != nullptr) world_->Revoke(reason);
  for (const auto& axis : axes_) {
    if (axis != nullptr) axis->Revoke(reason);
  }
  for (const auto& other : others_) other->Revoke(reason);
}

}  // namespace trireme
