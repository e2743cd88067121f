// Where a run's checkpoints are: in the store that is asked for, or still in the one that it had.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/config_places.h"
#include "cluster/base/status.h"

namespace trireme {

namespace proto {
class Config;
class Manifest;
}  // namespace proto

// What is there of a run already.
struct StoredRun {
  std::shared_ptr<const proto::Manifest> newest;  // that verifies; null for a new run
  std::vector<int64_t> steps;  // of checkpoint.store, ascending, with the newest's, which may yet
                               // have to be copied there
  std::string copy_from;       // the store that holds the newest; empty: checkpoint.store does
  std::vector<std::string> set_aside;  // checkpoints that did not verify, with the reason
};

// Looks at checkpoint.store and, where run.dir had its checkpoints in another store, at that one: a
// newer checkpoint there is the run's. config: run.dir and checkpoint.store are filled in.
// kInvalidArgument: the store holds another run's checkpoints; kStorage: there are checkpoints, and
// none verifies.
Result<StoredRun> FindStoredRun(const proto::Config& config, const ConfigPlaces& places);

// kInvalidArgument unless both run.dir and checkpoint.store are empty.
Status CheckFresh(const proto::Config& config);

// Copies the checkpoint of `step` from one store to the other, verified; neither loses one. What is
// there of that step or later ones does not verify and is set aside.
Status CopyToStore(const std::string& from, const std::string& to, int64_t step);

}  // namespace trireme
