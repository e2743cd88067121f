// A run whose checkpoint.store changes:
//   1. FindStoredRun looks where run.dir's config.yaml had the checkpoints, and compares. Nothing
//      is written: whatever else is asked for can still be refused.
//   2. CopyToStore copies the newest. A crash leaves chunks without a manifest; config.yaml still
//      names the store before, so that the next start finds the checkpoint there and copies again.
//   3. config.yaml is written anew. A crash before leaves the same checkpoint in both stores: that
//      of the store asked for is used.
#include "cli/run_store.h"

#include <algorithm>
#include <filesystem>

#include "cli/config_folders.h"
#include "cli/run_continuation.h"
#include "coordinator/journal.h"
#include "proto/config.pb.h"
#include "proto/manifest.pb.h"
#include "storage/checkpoint_copy.h"
#include "storage/checkpoint_location.h"
#include "storage/checkpoint_reader.h"
#include "storage/checkpoint_writer.h"
#include "storage/object_store.h"

namespace trireme {
namespace {

bool HoldsNoManifest(const ObjectStore& store) {
  const auto steps = ListCheckpoints(store);
  return steps.ok() && steps->empty();
}

// A run that ended while its first checkpoint was written has chunks and no manifest, and by its
// journal no checkpoint that ever was: it begins again. A manifest that once was is another matter.
bool NoCheckpointEverWas(const ObjectStore& store, const std::string& run_dir) {
  const auto records = ReadJournal(run_dir);
  if (!HoldsNoManifest(store) || !records.ok() || records->empty()) return false;
  return std::none_of(records->begin(), records->end(),
                      [](const JournalRecord& record) { return record.kind == "checkpoint"; });
}

// What one store holds of the run.
Result<StoredRun> FindInStore(const ObjectStore& store, const std::string& run_dir) {
  StoredRun run;
  const auto newest = OpenNewestCheckpoint(store, &run.set_aside);
  if (!newest.ok()) {
    const bool is_new =
        newest.status().code() == StatusCode::kNotFound || NoCheckpointEverWas(store, run_dir);
    if (is_new) return StoredRun();
    return newest.status();
  }
  run.newest = std::make_shared<proto::Manifest>(newest.value()->manifest());
  ASSIGN_OR_RETURN(const std::vector<int64_t> steps, ListCheckpoints(store));
  for (const int64_t step : steps) {
    if (step <= run.newest->step()) run.steps.push_back(step);
  }
  return run;
}

// The store that run.dir had its checkpoints in when it is another one than is asked for; or "".
std::string StoreBefore(const proto::Config& config) {
  const std::string& dir = config.run().dir();
  const CheckpointLocation before = LocateCheckpoint(dir);
  if (!CanBeSameFolder(before.run_dir, dir)) return "";
  const bool is_same = OnePath(before.store_url) == OnePath(config.checkpoint().store());
  return is_same ? "" : before.store_url;
}

// Whether the store names a step after `step`; verifying reads everything and can wait.
bool HasLaterStep(const ObjectStore& store, int64_t step) {
  const auto steps = ListCheckpoints(store);
  return !steps.ok() || (!steps->empty() && steps->back() > step);
}

}  // namespace

Result<StoredRun> FindStoredRun(const proto::Config& config, const ConfigPlaces& places) {
  const std::string &dir = config.run().dir(), &url = config.checkpoint().store();
  ASSIGN_OR_RETURN(const auto store, OpenStore(url));
  Result<StoredRun> here = FindInStore(*store, dir);
  const bool has_any = here.ok() && here->newest != nullptr;
  if (has_any) RETURN_IF_ERROR(CheckOwner(here->newest->config(), config, places));
  if (!here.ok() && !HoldsNoManifest(*store)) return here;
  const std::string url_before = StoreBefore(config);
  if (url_before.empty()) return here;

  ASSIGN_OR_RETURN(const auto store_before, OpenStore(url_before));
  const int64_t step_here = has_any ? here->newest->step() : -1;
  if (has_any && !HasLaterStep(*store_before, step_here)) return here;
  Result<StoredRun> before = FindInStore(*store_before, dir);
  // Without any other checkpoint the run would begin again, over its own metrics.
  if (!before.ok()) return has_any ? std::move(here) : std::move(before);
  if (before->newest == nullptr || before->newest->step() <= step_here) return here;
  before->steps = has_any ? here->steps : std::vector<int64_t>();
  before->steps.push_back(before->newest->step());
  before->copy_from = url_before;
  return before;
}

Status CheckFresh(const proto::Config& config) {
  const std::string &dir = config.run().dir(), &url = config.checkpoint().store();
  std::error_code error;
  if (std::filesystem::exists(dir, error) && !std::filesystem::is_empty(dir, error)) {
    return InvalidArgumentError(
        StrCat("--fresh: ", dir, " is not empty: expected a new run.dir (--set run.dir=NEW)"));
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<ObjectStore> store, OpenStore(url));
  ASSIGN_OR_RETURN(const std::vector<std::string> keys, store->List("step_"));
  if (keys.empty()) return OkStatus();
  return InvalidArgumentError(StrCat("--fresh: checkpoint.store ", url,
                                     " holds checkpoints: expected an empty store (--set "
                                     "checkpoint.store=NEW)"));
}

Status CopyToStore(const std::string& from, const std::string& to, int64_t step) {
  ASSIGN_OR_RETURN(const auto source, OpenStore(from));
  ASSIGN_OR_RETURN(const auto target, OpenStore(to));
  RETURN_IF_ERROR(DiscardCheckpointsAfter(*target, step - 1));
  ASSIGN_OR_RETURN(const auto checkpoint, CheckpointReader::Open(*source, step));
  return CopyCheckpoint(*source, *checkpoint, *target);
}

}  // namespace trireme
