// NcclChannel: one NCCL communicator, started when it is first needed, and the operations on it,
// one after the other on a stream of its own.
//
// NCCL's calls do not block (ncclConfig blocking = 0): while one is in progress, the channel waits
// for ncclCommGetAsyncError to say that it is over before the next call. Everything is called under
// the engine's lock, and nothing here blocks.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cluster/comm/device_engine.h"
#include "cluster/comm/nccl_api.h"

namespace trireme {

// Ends NCCL communicators on threads of their own, because ncclCommAbort and ncclCommDestroy can
// hang. One a GPU; thread-safe.
class NcclReaper : public std::enable_shared_from_this<NcclReaper> {
 public:
  NcclReaper(const nccl::Api* api, Micros patience) : api_(api), patience_(patience) {}
  // finalize: everything on it is done, and its last messages may still be on their way; else it is
  // aborted. `graveyard`, of memory that it may touch, is cleared when it has ended.
  void End(nccl::Comm comm, const std::string& what, bool finalize,
           std::shared_ptr<Graveyard> graveyard);
  // OK; kUnavailable while something that was aborted has not ended in time: the GPU is then still
  // held by it, and only a new process is sure to get it back.
  Status Health();
  // Aborts still under way, and not late.
  bool Pending();
  // Waits for what is pending, at most the patience.
  void Drain();

 private:
  struct Ending {
    std::string what;
    Micros deadline;
    bool over = false;
  };
  void Run(nccl::Comm comm, bool finalize, Micros deadline);

  const nccl::Api* api_;
  const Micros patience_;
  std::mutex mutex_;
  std::condition_variable news_;
  std::vector<std::shared_ptr<Ending>> endings_;
};

class NcclChannel {
 public:
  struct Place {
    std::string what;  // "group 'data' (id 3, generation 1)", for messages
    int rank;
    int size;
    int ctas_max = nccl::kDefault;
  };
  // Sends or receives the unique id, and then ends; rank 0 has filled it in.
  using Exchange = std::function<Work(nccl::UniqueId* id)>;
  // One call, or a group of calls, of NCCL: an nccl::Result. Or work for the stream: kSuccess.
  using Step = std::function<int(nccl::Comm comm, Stream& stream)>;

  NcclChannel(const nccl::Api* api, std::shared_ptr<NcclReaper> reaper, Place place,
              std::shared_ptr<Stream> stream, Exchange exchange);
  ~NcclChannel();

  // A channel of one rank has no communicator: its steps get null, and only use the stream.
  // The steps run after `called`, an event of the caller's stream.
  void Add(std::shared_ptr<DeviceOperation> operation, StreamEvent called, std::vector<Step> steps);
  bool Advance();
  bool busy() const { return !tasks_.empty(); }
  // Not OK: the communicator is broken, everything on it has ended with this, and so will what
  // comes later.
  const Status& status() const { return status_; }
  // Ends everything with kUnavailable and this reason, and the communicator behind it.
  void End(const std::string& reason);
  // What the first task waits for on this rank: "connecting", "running".
  const char* phase() const;

 private:
  enum class State : uint8_t { kUnused, kExchanging, kStarting, kReady, kEnded };
  struct Task {
    std::shared_ptr<DeviceOperation> operation;
    StreamEvent called;
    std::vector<Step> steps;
    size_t begun = 0;  // steps
    bool recorded = false;
    StreamEvent done;
  };
  bool Connect();
  bool AdvanceTasks();
  // False while NCCL is busy with the last call, or has failed.
  bool Settled();
  Status StatusOf(int result, const std::string& doing) const;
  void Fail(Status status);
  void Dispose(bool finalize);

  const nccl::Api* api_;
  const std::shared_ptr<NcclReaper> reaper_;
  const Place place_;
  const Exchange exchange_;
  const std::shared_ptr<Stream> stream_;
  State state_ = State::kUnused;
  Status status_;
  std::shared_ptr<nccl::UniqueId> id_;
  Work exchanging_;
  nccl::Comm comm_ = nullptr;
  bool in_progress_ = false;  // a call has not ended
  std::deque<Task> tasks_;
};

}  // namespace trireme
