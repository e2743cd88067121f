// Which checkpoints a store holds, and which of them go.
#include <set>

#include "storage/checkpoint_manifest.h"
#include "storage/checkpoint_reader.h"
#include "storage/checkpoint_writer.h"

namespace trireme {
namespace {

constexpr char kDiscardedFile[] = "manifest.discarded.json";

struct Folders {
  std::set<int64_t> all;            // steps with any object
  std::set<int64_t> with_manifest;  // steps that exist
};

Result<Folders> ListFolders(const ObjectStore& store) {
  ASSIGN_OR_RETURN(const std::vector<std::string> keys, store.List("step_"));
  Folders folders;
  for (const std::string& key : keys) {
    const size_t slash = key.find('/');
    if (slash == std::string::npos) continue;
    const std::optional<int64_t> step = StepOfFolder(key.substr(0, slash));
    if (!step) continue;
    folders.all.insert(*step);
    if (key == ManifestKey(*step)) folders.with_manifest.insert(*step);
  }
  return folders;
}

Result<std::unique_ptr<CheckpointReader>> OpenAndVerify(const ObjectStore& store, int64_t step) {
  ASSIGN_OR_RETURN(auto reader, CheckpointReader::Open(store, step));
  RETURN_IF_ERROR(reader->Verify());
  return reader;
}

Status DeleteAll(ObjectStore& store, int64_t step) {
  ASSIGN_OR_RETURN(const std::vector<std::string> keys, store.List(CheckpointFolder(step) + "/"));
  for (const std::string& key : keys) RETURN_IF_ERROR(store.Delete(key));
  return OkStatus();
}

}  // namespace

Result<std::vector<int64_t>> ListCheckpoints(const ObjectStore& store) {
  ASSIGN_OR_RETURN(const Folders folders, ListFolders(store));
  return std::vector<int64_t>(folders.with_manifest.begin(), folders.with_manifest.end());
}

Result<std::unique_ptr<CheckpointReader>> OpenNewestCheckpoint(const ObjectStore& store,
                                                               std::vector<std::string>* skipped,
                                                               int64_t step_max) {
  ASSIGN_OR_RETURN(const Folders folders, ListFolders(store));
  std::vector<std::string> reasons;
  for (auto it = folders.all.rbegin(); it != folders.all.rend(); ++it) {
    if (*it > step_max) continue;
    if (!folders.with_manifest.contains(*it)) {
      reasons.push_back(StrCat(store.Describe(ManifestKey(*it)), ": does not exist"));
      continue;
    }
    auto reader = OpenAndVerify(store, *it);
    if (reader.ok()) {
      if (skipped != nullptr) *skipped = std::move(reasons);
      return reader;
    }
    reasons.push_back(reader.status().message());
  }
  if (reasons.empty()) {
    return NotFoundError(StrCat(store.Describe(""), ": no checkpoints (step_NNNNNNNN) here"));
  }
  const std::string first = reasons.front();
  const size_t count = reasons.size();
  if (skipped != nullptr) *skipped = std::move(reasons);
  return StorageError(StrCat("none of ", count, " checkpoints verifies; the newest: ", first));
}

Result<std::unique_ptr<CheckpointReader>> OpenVerifiedCheckpoint(const ObjectStore& store,
                                                                 int64_t step) {
  auto reader = OpenAndVerify(store, step);
  if (reader.ok()) return reader;
  return StorageError(reader.status().message());
}

Status DeleteCheckpoint(ObjectStore& store, int64_t step) {
  RETURN_IF_ERROR(store.Delete(ManifestKey(step)));
  return DeleteAll(store, step);
}

Status DiscardCheckpointsAfter(ObjectStore& store, int64_t step) {
  ASSIGN_OR_RETURN(const Folders folders, ListFolders(store));
  for (const int64_t later : folders.with_manifest) {
    if (later <= step) continue;
    const std::string key = ManifestKey(later);
    ASSIGN_OR_RETURN(const std::string manifest, ReadObject(store, key));
    RETURN_IF_ERROR(PutText(store, StrCat(CheckpointFolder(later), "/", kDiscardedFile), manifest));
    RETURN_IF_ERROR(store.Delete(key));
  }
  return OkStatus();
}

Status SweepCheckpoints(ObjectStore& store) {
  ASSIGN_OR_RETURN(const Folders folders, ListFolders(store));
  if (folders.with_manifest.empty()) return OkStatus();
  const int64_t newest = *folders.with_manifest.rbegin();
  for (const int64_t step : folders.all) {
    if (step < newest && !folders.with_manifest.contains(step)) {
      RETURN_IF_ERROR(DeleteAll(store, step));
    }
  }
  return OkStatus();
}

}  // namespace trireme
