// Who is alive, and whose phase lasts too long. Pure: time comes in as an argument.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/control_types.h"

namespace trireme {

// What a worker last said about itself.
struct WorkerPhase {
  int64_t step = 0;
  std::string phase;
  int64_t microbatch = 0;
  int64_t entered = 0;
  bool operator==(const WorkerPhase&) const = default;
};

// How long phases last in this run: the last 256 durations of each, over all workers.
class PhaseDurations {
 public:
  void Add(const std::string& phase, double seconds);
  // max(floor, factor x p99), or hang_unlearned while fewer than 16 durations are known. Phases
  // that wait for the coordinator (a name that is empty or starts with "wait") have none.
  std::optional<Micros> Deadline(const std::string& phase, const CoordinatorOptions& options) const;

 private:
  struct Ring {
    std::vector<double> seconds;
    size_t next = 0;
    double p99 = 0;
  };
  std::map<std::string, Ring> rings_;
};

class Liveness {
 public:
  explicit Liveness(const CoordinatorOptions& options) : options_(options) {}

  void Add(WorkerId worker, Micros now);
  void Remove(WorkerId worker) { workers_.erase(worker); }
  void Heard(WorkerId worker, Micros now);
  void Entered(WorkerId worker, const WorkerPhase& phase, Micros now);
  void Learn(const std::string& phase, double seconds) { durations_.Add(phase, seconds); }

  // To be called at every tick, before the two below: what this process itself was late is added to
  // everybody's time, so that an oversubscribed host kills nobody.
  void OnTick(Micros now);

  struct Silence {
    WorkerId worker;
    Micros silent;
  };
  // The worker whose lease has lapsed longest, if any has missed it too often.
  std::optional<Silence> Lapsed(Micros now) const;

  struct Hang {
    WorkerId worker;       // one that is behind all others
    std::string behind;    // what it does, and for how long
    std::string deadline;  // which phase outran which deadline
    std::string missing;   // the phase it has not entered though others have; may be empty
  };
  // A phase that outran its deadline, and who holds it up.
  std::optional<Hang> Hanging(Micros now) const;

  Micros SilentFor(WorkerId worker, Micros now) const;

 private:
  struct Worker {
    Micros heard = 0;
    Micros since = 0;
    WorkerPhase at;
  };

  const CoordinatorOptions& options_;
  std::map<WorkerId, Worker> workers_;
  PhaseDurations durations_;
  std::optional<Micros> last_tick_;
};

}  // namespace trireme
