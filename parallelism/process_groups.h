// ProcessGroups: the communicators of one logical rank, along the axes of the mesh and among other
// sets of ranks, for one generation.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "cluster/comm/communicator.h"
#include "parallelism/mesh.h"

namespace trireme {

// Groups of fewer than two ranks have no communicator: callers skip the communication. A group's
// rank is the index along its axis. Creating groups sends no message.
class ProcessGroups {
 public:
  // A mesh of one rank, without a transport.
  ProcessGroups() : ProcessGroups(nullptr, Mesh(), HostMap{}, 0) {}
  // `factory` belongs to the process that stands on `rank` by `hosts` and outlives this object; it
  // may be null when the mesh has one rank. Its communicators take memory of the device that
  // computes; where that is a GPU, `host` makes World(), for memory of the host.
  ProcessGroups(CommunicatorFactory* factory, const Mesh& mesh, HostMap hosts, int rank,
                CommunicatorFactory* host = nullptr);

  const Mesh& mesh() const { return mesh_; }
  int rank() const { return rank_; }
  int Index(Axis axis) const { return mesh_.Index(rank_, axis); }

  Communicator* Along(Axis axis) const { return axes_[static_cast<int>(axis)].get(); }
  // All ranks. Its buffers are memory of the host.
  Communicator* World() const { return world_.get(); }
  // Other sets of logical ranks, ascending, this one among them; null for fewer than two. All
  // members create it with the same `group_id` (kFirstFreeId or above; one a purpose). Owned here.
  static constexpr uint16_t kFirstFreeId = 16;
  Communicator* Among(const std::string& name, const std::vector<int>& ranks, uint16_t group_id);

  // Communicator::Settle, and the others, of all groups but World(), in the same order everywhere.
  Status Settle(Micros timeout);
  void BeginRehearsal();
  Status EndRehearsal(Micros timeout);
  // Ends every group, also those made later; see Communicator::Revoke. Callable from any thread.
  void Revoke(const std::string& reason);

 private:
  std::unique_ptr<Communicator> Create(CommunicatorFactory* factory, const std::string& name,
                                       const std::vector<int>& ranks, uint16_t group_id) const;
  std::vector<Communicator*> OfTheDevice();

  CommunicatorFactory* factory_;
  Mesh mesh_;
  HostMap hosts_;
  int rank_;
  std::array<std::unique_ptr<Communicator>, kAxisCount> axes_;
  std::unique_ptr<Communicator> world_;
  std::mutex mutex_;  // guards what follows
  std::vector<std::unique_ptr<Communicator>> others_;
  std::optional<std::string> revoked_;  // the reason
};

// Every logical rank on the process of the same number.
HostMap IdentityHosts(int ranks, uint64_t generation = 1);

}  // namespace trireme
