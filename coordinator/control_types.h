// What goes into the coordinator's state machine and what comes out of it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "cluster/base/clock.h"
#include "parallelism/mesh.h"

namespace trireme {

namespace proto {
class Config;
class ToCoordinator;
class ToWorker;
}  // namespace proto

// A connection of a worker; never used twice.
using WorkerId = uint64_t;

// ---- inputs ----

struct WorkerConnected {
  WorkerId worker;
};
struct WorkerClosed {
  WorkerId worker;
  std::string reason;
};
struct WorkerMessage {
  WorkerId worker;
  std::shared_ptr<const proto::ToCoordinator> message;
};
// Comes every CoordinatorOptions::tick; deadlines are looked at here alone.
struct Tick {};
// SIGTERM, SIGUSR1, or a user.
struct StopRequested {
  std::string reason;
};
// What became of CommitManifest or RemoveCheckpoint. A commit is done when the manifest is in place
// and the checkpoint has been verified.
struct StorageResult {
  enum class Operation { kCommit, kDelete };
  Operation operation;
  int64_t step;
  std::string error;  // empty: done
};

using Input =
    std::variant<WorkerConnected, WorkerClosed, WorkerMessage, Tick, StopRequested, StorageResult>;

// ---- effects ----

struct MemberInfo {
  int rank;
  int64_t pid;
  std::string host;
  std::string role;  // coordinator, worker, spare
  int place;         // logical rank; -1 for all but workers
  MeshPoint point;
};

// A line of events.jsonl; the shell adds the time.
struct Event {
  uint64_t generation = 0;
  std::string kind;
  int64_t step = 0;
  std::optional<int> worker;  // rank
  std::string reason;
  std::optional<double> detect_seconds;
  std::optional<int> exit_code;     // kind stop
  std::vector<MemberInfo> members;  // kind start
};

// A line of metrics.jsonl after a step.
struct StepMetrics {
  int64_t step = 0;
  double loss = 0;
  double grad_norm = 0;
  double lr = 0;
  int64_t tokens = 0;
  double step_ms = 0;
  double tokens_per_second = 0;
  std::optional<double> mfu;
  int64_t memory_bytes_max = 0;
  uint64_t generation = 0;
};
// A line of metrics.jsonl after a validation.
struct ValidationMetrics {
  int64_t step = 0;
  double loss = 0;
};

// A decision as the journal keeps it; a new coordinator starts from these.
struct JournalRecord {
  std::string kind;  // start, committed, checkpoint, checkpoint_deleted, stopping, verdict
  uint64_t generation = 0;
  int64_t step = 0;
  std::string reason;
  std::optional<int> exit_code;
};

// How the run ended, once.
struct Verdict {
  int exit_code = 0;
  int64_t step = 0;
  std::string reason;
};

struct SendTo {
  WorkerId worker;
  std::shared_ptr<const proto::ToWorker> message;
};
struct CloseWorker {
  WorkerId worker;
  std::string reason;
};
struct WriteEvent {
  Event event;
};
struct WriteMetrics {
  std::variant<StepMetrics, ValidationMetrics> line;
};
struct WriteJournal {
  JournalRecord record;
};
// All workers have written their chunks of `step`: put the manifest in place, verify it, and answer
// with a StorageResult.
struct CommitManifest {
  int64_t step;
  std::vector<std::pair<int, std::string>> parts;  // place, ChunkReport.manifest_part
};
struct RemoveCheckpoint {
  int64_t step;
};
// The state machine is done; nothing comes after it.
struct EndRun {
  Verdict verdict;
};

using Effect = std::variant<SendTo, CloseWorker, WriteEvent, WriteMetrics, WriteJournal,
                            CommitManifest, RemoveCheckpoint, EndRun>;
using Effects = std::vector<Effect>;

// ---- what a run is, to the coordinator ----

struct CoordinatorOptions {
  std::optional<MemberInfo> coordinator;  // itself, listed before the others

  Mesh mesh;                // workers = mesh.size()
  int spares = 0;           // expected besides; more ranks than that are parked too
  uint64_t generation = 1;  // one more than the journal's last
  int64_t start_step = 0;   // done already
  int64_t steps_total = 0;
  int64_t label_tokens_done = 0;     // of the steps done
  int64_t checkpoint_every = 0;      // 0: only after the last step
  int64_t checkpoint_keep = 3;       // 0: all
  std::vector<int64_t> checkpoints;  // that exist and verify, ascending
  int64_t validation_every = 0;      // 0: none at all
  bool validate_start = false;       // after start_step, before the first step
  std::string checkpoint_to_load;    // for the plan, as is the next
  std::shared_ptr<const proto::Config> config;
  int64_t steps_ahead = 2;  // budget beyond the last step that all have finished
  Micros lease = 300'000;
  int lease_misses = 3;
  Micros tick = 50'000;
  Micros join_deadline = 60'000'000;
  Micros leave_deadline = 2'000'000;  // for workers to go after Stop or Abort
  Micros hang_floor = 3'000'000;      // a phase may last max(floor, factor x its p99) ...
  double hang_factor = 3;
  Micros hang_unlearned = 600'000'000;  // ... or this, until enough of it was seen
  // A hang that stands this much longer ends the run: a host that other programs keep busy can hold
  // a process back for seconds.
  Micros hang_patience = 27'000'000;
  // Why equal bits with what was trained before are no longer promised; one event each.
  std::vector<std::string> promises_ended;
  // Checkpoints that did not verify, with the reason; one event each.
  std::vector<std::string> set_aside;
};

}  // namespace trireme
