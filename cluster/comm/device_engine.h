// DeviceEngine: the progress of operations on a GPU's memory, for one rank. Such an operation is a
// row of steps: some are enqueued on a stream and awaited as events, some are messages of a host
// communicator, some are NCCL's. A thread of the engine polls while there is something to poll for,
// and so do callers that wait; neither ever blocks in a step.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cluster/comm/comm_engine.h"
#include "cluster/comm/device_link.h"

namespace trireme {

// Memory that something beyond this program's control may still touch. Thread-safe.
class Graveyard {
 public:
  void Bury(std::vector<std::shared_ptr<void>> memory);
  // Nothing touches it any more; what is buried later is released at once.
  void Clear();

 private:
  std::mutex mutex_;
  bool cleared_ = false;
  std::vector<std::shared_ptr<void>> memory_;
};

// One operation in flight. Guarded by the engine's lock, but for `ended`.
class DeviceOperation {
 public:
  using Kind = CommOperation::Kind;
  DeviceOperation(Kind kind, std::shared_ptr<CommGroup> group, uint32_t sequence)
      : kind(kind), group(std::move(group)), sequence(sequence) {}

  // Ends the operation for its caller with `status`; later calls are ignored.
  void Finish(Status end_status);
  bool finished() const { return ended.load(std::memory_order_acquire); }
  std::string Describe() const;  // "AllReduce 12 of group 'data' (id 3, generation 1)"

  const Kind kind;
  const std::shared_ptr<CommGroup> group;
  const uint32_t sequence;
  std::atomic<bool> ended{false};
  Status status;
  Micros begun = 0;
  // Everything that makes the results is on its way through the GPU, up to this event.
  bool under_way = false;
  StreamEvent results;
  // What follows Describe() in the text of a deadline; by the group that drives the operation.
  std::function<std::string(Micros waited)> describe_wait;
  // Memory that the device or the network may touch until the steps are over: scratch, and what
  // the caller left when it abandoned the operation.
  std::vector<std::shared_ptr<void>> held;
  // Once it has failed: where memory goes that is abandoned after that.
  std::shared_ptr<Graveyard> graveyard;
};

// The operations of one communicator. Everything is called under the engine's lock.
class DeviceGroup {
 public:
  explicit DeviceGroup(std::shared_ptr<CommGroup> group) : group(std::move(group)) {}
  virtual ~DeviceGroup() = default;
  // Does what can be done without blocking; true if that was anything.
  virtual bool Advance() = 0;
  // False when there is nothing to poll for.
  virtual bool busy() const = 0;
  // Revocation: everything in flight ends with this status' text; the device's part is ended in
  // the background.
  virtual void End(const std::string& reason) = 0;

  const std::shared_ptr<CommGroup> group;
  bool closed = false;  // its communicator is gone: it leaves the engine when it is not busy
};

class DeviceEngine {
 public:
  explicit DeviceEngine(const std::string& thread_name);
  ~DeviceEngine();

  // Adds a group; if it is of a newer generation, all older ones are revoked.
  void AddGroup(std::shared_ptr<DeviceGroup> group);
  void CloseGroup(DeviceGroup& group);
  // Runs `start` under the lock unless the group is revoked, which ends the operation at once.
  void Submit(const std::shared_ptr<DeviceOperation>& operation, DeviceGroup& group,
              const std::function<void()>& start);
  Status Wait(DeviceOperation& operation, Micros timeout);
  // Work::Follow: the operation is remembered until it has ended, for Settle.
  Status Follow(const std::shared_ptr<DeviceOperation>& operation, Stream& stream, Micros timeout);
  Status Settle(const DeviceGroup& group, Micros timeout);
  void Abandon(DeviceOperation& operation, std::shared_ptr<void> keep_alive);
  void Revoke(DeviceGroup& group, const std::string& reason);
  std::string DescribeWait(DeviceOperation& operation, Micros waited);
  // Revokes every group and ends the thread.
  void Stop();

 private:
  void Run(const std::string& thread_name);
  bool Drive();
  bool Busy() const;
  Status Await(std::unique_lock<std::mutex>* lock, DeviceOperation& operation, Micros timeout,
               bool until_under_way);
  void RevokeLocked(DeviceGroup& group, const std::string& reason);

  std::mutex mutex_;
  std::condition_variable news_;
  bool stop_ = false;
  uint64_t generation_ = 0;
  std::vector<std::shared_ptr<DeviceGroup>> groups_;
  std::vector<std::shared_ptr<DeviceOperation>> followed_;
  std::thread thread_;
};

// The Work of such an operation.
class DeviceWork final : public Work::State {
 public:
  DeviceWork(std::shared_ptr<DeviceEngine> engine, std::shared_ptr<DeviceOperation> operation)
      : engine_(std::move(engine)), operation_(std::move(operation)) {}
  bool Test() override { return operation_->finished(); }
  Status Wait(Micros timeout) override { return engine_->Wait(*operation_, timeout); }
  Status Follow(Stream& stream, Micros timeout) override {
    return engine_->Follow(operation_, stream, timeout);
  }
  void Abandon(std::shared_ptr<void> keep_alive) override {
    engine_->Abandon(*operation_, std::move(keep_alive));
  }
  std::string Describe() const override { return operation_->Describe(); }
  std::string DescribeWait(Micros waited) override {
    return engine_->DescribeWait(*operation_, waited);
  }

 private:
  std::shared_ptr<DeviceEngine> engine_;
  std::shared_ptr<DeviceOperation> operation_;
};

// Buffers of one kind, reused: making and freeing them may wait for all of the GPU's work.
class ScratchPool : public std::enable_shared_from_this<ScratchPool> {
 public:
  explicit ScratchPool(std::function<Buffer(int64_t bytes)> make) : make_(std::move(make)) {}
  // At least `bytes`; goes back to the pool when the last copy of the pointer is gone.
  std::shared_ptr<std::byte> Take(int64_t bytes);

 private:
  std::function<Buffer(int64_t bytes)> make_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Buffer>> free_;
};

}  // namespace trireme
