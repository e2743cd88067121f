// NcclGroup: what one NCCL communicator object drives, under its engine's lock.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "cluster/comm/nccl_communicator.h"
#include "cluster/comm/nccl_messages.h"

namespace trireme {

// Memory of the GPU that the collectives of a group use one after the other, in the order of their
// stream. For the thread that calls the communicator.
class CollectiveScratch {
 public:
  explicit CollectiveScratch(Stream* compute) : compute_(compute) {}
  // At least `bytes`, and in `operation`'s hold. What was smaller is kept: freeing memory may wait
  // for kernels that wait for peers.
  std::byte* Take(int64_t bytes, DeviceOperation* operation);

 private:
  Stream* compute_;
  std::vector<std::shared_ptr<Buffer>> areas_;
};

class NcclGroup final : public DeviceGroup {
 public:
  NcclGroup(const nccl::Api* api, std::shared_ptr<NcclReaper> reaper,
            std::shared_ptr<CommGroup> group, std::unique_ptr<Communicator> host,
            std::unique_ptr<Communicator> control, Stream* compute);
  ~NcclGroup() override;

  bool Advance() override;
  bool busy() const override;
  void End(const std::string& reason) override;

  // A collective, in the order of all members' calls.
  void AddCollective(std::shared_ptr<DeviceOperation> operation, StreamEvent called,
                     std::vector<NcclChannel::Step> steps);
  void AddBarrier(std::shared_ptr<DeviceOperation> operation, StreamEvent called);

  const nccl::Api* const api;
  const std::unique_ptr<Communicator> host;     // barriers, small messages
  const std::unique_ptr<Communicator> control;  // unique ids, announcements, notices
  const std::shared_ptr<HostStage> stage;
  CollectiveScratch scratch;
  NcclMessages messages;

 private:
  // Ranks that wait for long tell the others how many collectives they have entered, so that a
  // deadline can name those who have not.
  struct Peer {
    std::shared_ptr<int64_t> arriving;
    Work receiving;
    int64_t entered = 0;  // as far as it has told
    int64_t told = 0;     // what this rank has told it
  };
  bool AdvanceNotices();
  void Enter(const std::shared_ptr<DeviceOperation>& operation);
  std::string DescribeWait(int64_t sequence, Micros waited) const;

  NcclChannel collectives_;
  StagedTasks barriers_;
  std::deque<std::shared_ptr<DeviceOperation>> unfinished_;  // collectives and barriers
  int64_t entered_ = 0;
  std::vector<Peer> peers_;
  struct Telling {
    std::shared_ptr<int64_t> entered;
    Work work;
  };
  std::vector<Telling> telling_;
};

// NcclWorld without its conditions: tests run it on CPU streams, with an NCCL of their own.
std::unique_ptr<CommunicatorFactory> MakeNcclFactory(const nccl::Api* api,
                                                     CommunicatorFactory* host, Stream* compute,
                                                     const NcclOptions& options);

}  // namespace trireme
