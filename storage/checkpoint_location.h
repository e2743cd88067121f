// From what a user types to a store and a step.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "cluster/base/status.h"
#include "storage/checkpoint_reader.h"
#include "storage/object_store.h"

namespace trireme {

// "file:///a" as "/a"; anything else as it is.
std::string WithoutFileScheme(std::string text);

struct CheckpointLocation {
  std::string store_url;        // for OpenStore
  std::optional<int64_t> step;  // as given with "@50" or by a step's own folder
  std::string run_dir;          // the run whose store it is; empty when there is none
};

// "STORE" or "STORE@50": a store, a run's folder (the store that its config.yaml names elsewhere,
// or its checkpoints/), or a step's folder. Touches the file system, opens nothing.
CheckpointLocation LocateCheckpoint(const std::string& text);

// kInvalidArgument for "STORE@x": a store that exists, and what is no step behind the @.
Status CheckStepOf(const std::string& text);

// A verified checkpoint and the store that it lives in.
struct OpenedCheckpoint {
  CheckpointLocation location;
  std::unique_ptr<ObjectStore> store;
  std::unique_ptr<CheckpointReader> reader;
  std::vector<std::string> set_aside;  // newer ones that do not verify, each with the reason
};

// The step that `text` names, or the newest that verifies.
// kStorage when there is none, or the named one does not verify.
Result<OpenedCheckpoint> OpenCheckpoint(const std::string& text);

}  // namespace trireme
