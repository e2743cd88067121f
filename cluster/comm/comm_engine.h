// CommEngine: the progress of all operations of one rank, by a thread of its own that sleeps when
// nothing is in flight, and by callers that wait.
#pragma once

#include <atomic>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cluster/base/clock.h"
#include "cluster/comm/communicator.h"
#include "cluster/comm/message_transport.h"
#include "cluster/comm/work_state.h"

namespace trireme {

// Lets threads sleep until something has happened since they last looked. Thread-safe.
class Waker {
 public:
  uint64_t Epoch() const { return epoch_.load(); }
  void Notify();
  // Sleeps while Epoch() == seen, at most `timeout` (negative: for ever).
  void Sleep(uint64_t seen, Micros timeout);

 private:
  std::atomic<uint64_t> epoch_{0};
  std::atomic<int> sleepers_{0};
  std::mutex mutex_;
  std::condition_variable condition_;
};

// What the operations of one Communicator share. Guarded by the engine's lock.
struct CommGroup {
  std::string name;
  std::vector<int> members;  // world ranks
  int rank = 0;              // within the group
  uint16_t id = 0;
  uint64_t generation = 0;
  bool revoked = false;
  std::string revoke_reason;

  // CHECKs that the members are ascending, inside the world, and `world_rank` one of them.
  static std::shared_ptr<CommGroup> Make(const std::string& name, std::vector<int> members,
                                         uint16_t id, uint64_t generation, int world_rank,
                                         int world_size);
  std::string Describe() const;  // "group 'data' (id 3, generation 1)"
  // ": not done after 12 ms, waiting for ranks 1, 2 (...); nothing heard from rank 2 (...)".
  std::string DescribeWait(Micros waited, const std::vector<int>& waiting,
                           const std::vector<int>& silent) const;
};

// A collective or message in flight: a state machine over transfers. Guarded by the engine's lock,
// but for `ended`.
class CommOperation {
 public:
  enum class Kind : uint8_t {
    kReduceScatter,
    kAllGather,
    kAllReduce,
    kBroadcast,
    kAllToAll,
    kSend,
    kReceive,
    kBarrier,
  };
  CommOperation(Kind kind, std::shared_ptr<CommGroup> group, uint32_t sequence);
  virtual ~CommOperation();

  // Posts what can be posted at once.
  virtual void Start(MessageTransport& transport) = 0;
  // Goes on after transfers have moved; true if anything was done. Sets Finish() at the end.
  virtual bool Advance(MessageTransport& transport) = 0;

  // Ends the operation with `status`; later calls are ignored.
  void Finish(Status status);
  bool finished() const { return ended.load(std::memory_order_acquire); }
  // "AllReduce 12 of group 'data' (id 3, generation 1)".
  std::string Describe() const;
  // The text of a deadline that ran out: operation, group, sequence, who is missing.
  std::string DescribeWait(Micros waited) const;
  static const char* KindName(Kind kind);

  const Kind kind;
  const std::shared_ptr<CommGroup> group;
  const uint32_t sequence;
  std::vector<std::unique_ptr<Transfer>> transfers;
  std::atomic<bool> ended{false};
  bool abandoned = false;
  Status status;
  std::shared_ptr<void> keep_alive;

 protected:
  // Makes a transfer with a member of the group; the caller sets its limit and posts it.
  Transfer* AddTransfer(bool send, int member, int32_t slot, StreamLayout layout);
  // True when every transfer is complete.
  bool AllComplete() const;
};

class CommEngine {
 public:
  CommEngine(std::unique_ptr<MessageTransport> transport, std::shared_ptr<Waker> events);
  ~CommEngine();

  int world_rank() const { return transport_->rank(); }
  int world_size() const { return transport_->size(); }
  void AddGroup(const std::shared_ptr<CommGroup>& group);
  void Submit(std::shared_ptr<CommOperation> operation);
  Status Wait(CommOperation& operation, Micros timeout);
  void Abandon(const std::shared_ptr<CommOperation>& operation, std::shared_ptr<void> keep_alive);
  void Revoke(CommGroup& group, const std::string& reason);
  std::string DescribeWait(const CommOperation& operation, Micros waited);
  // The transport, when nothing else uses the engine any more.
  MessageTransport& transport() { return *transport_; }
  // Ends the progress thread; called once, before the last use of transport().
  void Stop();

 private:
  void Run();
  // One round of progress under lock_; true if anything happened.
  bool Drive();
  void Retire(const std::shared_ptr<CommOperation>& operation);
  void RevokeLocked(CommGroup& group, const std::string& reason);
  // Waits for news: at first ready to go on at once, later asleep.
  void Pause(uint64_t seen, int idle_rounds, Micros at_most);
  std::unique_lock<std::mutex> Lock();

  std::unique_ptr<MessageTransport> transport_;
  std::shared_ptr<Waker> events_;  // called by peers through the transport
  Waker work_;                     // called when the progress thread may have something to do
  std::mutex mutex_;
  std::atomic<int> lockers_{0};  // threads that want the lock: the progress thread gives way
  std::atomic<int> helpers_{0};  // callers that wait, and drive meanwhile
  std::atomic<bool> stop_{false};
  std::atomic<bool> dozing_{false};  // the progress thread sleeps, but will look soon by itself
  Micros last_active_ = 0;
  Micros last_call_ = 0;  // of Submit, or the end of Wait
  std::vector<std::shared_ptr<CommOperation>> active_;
  std::vector<std::weak_ptr<CommGroup>> groups_;
  uint64_t generation_ = 0;
  std::thread thread_;
};

// The Work of an engine's operation.
class EngineWork final : public Work::State {
 public:
  EngineWork(std::shared_ptr<CommEngine> engine, std::shared_ptr<CommOperation> operation)
      : engine_(std::move(engine)), operation_(std::move(operation)) {}
  bool Test() override { return operation_->finished(); }
  Status Wait(Micros timeout) override { return engine_->Wait(*operation_, timeout); }
  void Abandon(std::shared_ptr<void> keep_alive) override {
    engine_->Abandon(operation_, std::move(keep_alive));
  }
  std::string Describe() const override { return operation_->Describe(); }
  std::string DescribeWait(Micros waited) override {
    return engine_->DescribeWait(*operation_, waited);
  }

 private:
  std::shared_ptr<CommEngine> engine_;
  std::shared_ptr<CommOperation> operation_;
};

}  // namespace trireme
