// StagedTasks: operations on GPU memory that travel by a host communicator, through pinned buffers.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/comm/device_engine.h"

namespace trireme {

// The stream and the pinned memory of one group's copies between GPU and host.
struct HostStage {
  // `compute`: where the caller's work on the operations' buffers is enqueued.
  explicit HostStage(Stream* compute);
  std::shared_ptr<std::byte> Pinned(int64_t bytes) { return pinned->Take(bytes); }

  Stream* compute;                 // used by the communicator's caller alone
  std::shared_ptr<Stream> copies;  // used under the engine's lock
  std::shared_ptr<ScratchPool> pinned;
};

// One operation: (1) its inputs are copied to pinned memory, (2) the host communicator runs it
// there, (3) its results are copied back.
struct StagedTask {
  std::shared_ptr<DeviceOperation> operation;
  StreamEvent inputs_copied;
  std::function<Work()> submit;
  std::function<void()> copy_back;  // enqueues (3); may be empty

  Work travel;
  StreamEvent results_copied;
  enum class Stage : uint8_t { kCopyingOut, kTravelling, kCopyingBack } stage = Stage::kCopyingOut;
};

class StagedTasks {
 public:
  explicit StagedTasks(std::shared_ptr<HostStage> stage) : stage_(std::move(stage)) {}
  ~StagedTasks();

  // Tasks are submitted to the host communicator in the order of Add, and end in any order.
  void Add(StagedTask task);
  bool Advance();
  bool empty() const { return tasks_.empty() && draining_.empty(); }
  // Ends the operations; what the copies still touch is kept until they are done.
  void End(const std::string& reason);

 private:
  void AdvanceTask(StagedTask& task, bool* may_submit, bool* progressed);
  void Drain(StagedTask& task);
  std::string DescribeWait(const DeviceOperation* operation, Micros waited) const;

  std::shared_ptr<HostStage> stage_;
  std::list<StagedTask> tasks_;
  std::vector<std::pair<StreamEvent, std::vector<std::shared_ptr<void>>>> draining_;
};

}  // namespace trireme
