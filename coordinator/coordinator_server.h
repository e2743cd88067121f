// The coordinator of a run: CoordinatorState behind an RPC server, with its timers and its files
// (metrics.jsonl, events.jsonl, journal/, tensorboard/, the progress line).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cluster/base/clock.h"
#include "cluster/base/status.h"
#include "cluster/rpc/endpoint.h"
#include "coordinator/control_types.h"

namespace trireme {

namespace proto {
class Config;
}

// What storage does for the coordinator, on a thread of its own. A commit puts the manifest in
// place and verifies the checkpoint before it returns ok: only then may an older one be deleted.
// Empty functions count as done.
struct StorageHooks {
  // (place, ChunkReport.manifest_part) of all workers, ascending.
  std::function<Status(int64_t step, const std::vector<std::pair<int, std::string>>& parts)>
      commit_manifest;
  std::function<Status(int64_t step)> delete_checkpoint;
};

struct CoordinatorServerOptions {
  // The run with every default filled in: layout, lr_schedule.steps, checkpoint, validation,
  // recovery are read here, all of it goes to the workers.
  std::shared_ptr<const proto::Config> config;
  std::string run_dir;
  int spares = 0;                           // ranks of the world beyond the workers
  int64_t start_step = 0;                   // of the checkpoint to go on from
  int64_t label_tokens = 0;                 // by that checkpoint, of the steps done
  std::string checkpoint_to_load;           // empty for a new run
  std::vector<int64_t> checkpoints;         // steps that exist and verify, ascending
  std::vector<std::string> promises_ended;  // see CoordinatorOptions
  std::vector<std::string> set_aside;       // likewise
  StorageHooks storage;
  std::string bind_address = "0.0.0.0";
  std::string advertise_host;  // what workers connect to; empty: this host's name
  bool progress = true;        // on stderr
  int64_t join_deadline_ms = 60'000;
  const Clock* clock = &RealClock();
};

class CoordinatorServer {
 public:
  // Takes the run's lock (a second coordinator on the same run.dir is kInvalidArgument), cuts
  // metrics.jsonl to start_step, begins the next generation of the journal, listens, and writes
  // journal/coordinator.json. Errors: kInvalidArgument, kStorage, kDataLoss (the journal),
  // kUnavailable (no port).
  static Result<std::unique_ptr<CoordinatorServer>> Start(const CoordinatorServerOptions& options);
  // Ends the run at once if it has not ended.
  ~CoordinatorServer();

  // For the workers; also in journal/coordinator.json.
  std::string address() const;
  std::string secret() const;
  uint64_t generation() const;

  // SIGTERM, SIGUSR1: all stop after one common step with a checkpoint. From any thread, not from a
  // signal handler.
  void RequestStop(const std::string& reason);
  // Blocks until all workers have left, and says how the run ended: ok, kStopped (75), kUnavailable
  // (5), kStorage (4), ... as the journal's verdict has it. The line of a kUnavailable has been
  // said on stderr already, when it was decided.
  Status Wait();

 private:
  class Impl;
  explicit CoordinatorServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace trireme
