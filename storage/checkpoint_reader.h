// Reading checkpoints: any box of any tensor, whatever boxes it was written in.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cluster/base/box.h"
#include "cluster/base/status.h"
#include "cluster/device/dtype.h"
#include "storage/object_store.h"
#include "storage/stored_box.h"

namespace trireme {

namespace proto {
class Manifest;
}

// A tensor of a checkpoint or of a model, as the whole world sees it.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

// Hashes of content: names, shapes, types and values, tensor by tensor in name order. They do not
// depend on layout, chunks, generation, time or store.
struct CheckpointHash {
  int64_t step = 0;
  std::string weights;  // all tensors but the optimizer's
  std::string state;    // the optimizer's tensors, step, seed, data cursor, schedule
};

// One checkpoint, its manifest read and checked. The store must outlive it. Thread-safe.
class CheckpointReader {
 public:
  // kNotFound: the step has no manifest, so it does not exist. kDataLoss: the manifest is torn or
  // breaks a rule.
  static Result<std::unique_ptr<CheckpointReader>> Open(const ObjectStore& store, int64_t step);
  ~CheckpointReader();

  const proto::Manifest& manifest() const { return *manifest_; }
  int64_t step() const;
  // By name.
  std::vector<TensorInfo> tensors() const;
  std::optional<TensorInfo> Find(std::string_view name) const;
  int64_t chunk_bytes() const;

  // Reads every byte and compares the checksums. kDataLoss with the first difference: object,
  // tensor, offset, actual and expected checksum.
  Status Verify() const;

  // Reads a box of a tensor into `out`, row-major, converted to `dtype`. `view_shape` is the shape
  // in which the box is meant: the stored one or one with dims split further. Does not compare
  // checksums: Verify first. kDataLoss: no such tensor, another shape, a short chunk.
  Status Load(std::string_view name, const Shape& view_shape, const Box& box, DType dtype,
              std::byte* out) const;

  // Reads every tensor once, in blocks of rows.
  Result<CheckpointHash> Hash() const;

 private:
  struct Tensor {
    TensorInfo info;
    std::vector<StoredBox> pieces;
  };
  explicit CheckpointReader(const ObjectStore& store);
  Status LoadPublished(const Tensor& tensor, const Box& box, DType dtype, std::byte* out) const;

  const ObjectStore& store_;
  std::unique_ptr<proto::Manifest> manifest_;
  std::map<std::string, Tensor, std::less<>> tensors_;
};

// True for "optimizer.m.NAME" and its like.
bool IsOptimizerTensor(std::string_view name);

// Steps that have a manifest, ascending; whether they verify is not looked at.
Result<std::vector<int64_t>> ListCheckpoints(const ObjectStore& store);

// The newest checkpoint that verifies, `step_max` at the latest. `skipped` (may be null) gets a
// line for each newer one that does not. kNotFound: the store holds none at all; kStorage: none of
// those it holds verifies, or only folders without a manifest are there.
Result<std::unique_ptr<CheckpointReader>> OpenNewestCheckpoint(const ObjectStore& store,
                                                               std::vector<std::string>* skipped,
                                                               int64_t step_max = INT64_MAX);

// The checkpoint of `step`, verified; kStorage when it is missing or corrupt.
Result<std::unique_ptr<CheckpointReader>> OpenVerifiedCheckpoint(const ObjectStore& store,
                                                                 int64_t step);

// Deletes a checkpoint, its manifest first: a crash in between leaves chunks that nobody reads.
Status DeleteCheckpoint(ObjectStore& store, int64_t step);
// Sets the manifests after `step` aside (as manifest.discarded.json), so that a run that goes on
// from `step` can write those steps again.
Status DiscardCheckpointsAfter(ObjectStore& store, int64_t step);
// Deletes chunks without a manifest, of steps before the newest checkpoint: what crashes left.
Status SweepCheckpoints(ObjectStore& store);

}  // namespace trireme
