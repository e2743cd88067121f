// Copying a checkpoint to another store, and comparing two.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "storage/checkpoint_reader.h"
#include "storage/object_store.h"

namespace trireme {

// Copies the chunks, then the manifest, exclusively; the copy is verified. Memory: one block. Where
// the manifest could not be put in place, the copied chunks are removed.
// kStorage: the target has this step already, or could not be written; kDataLoss: the copy differs.
Status CopyCheckpoint(const ObjectStore& from, const CheckpointReader& checkpoint, ObjectStore& to);

struct TensorDifference {
  std::string name;
  std::string what;       // "only in the first", "shape [8] and [9]", ...; empty: values differ
  int64_t different = 0;  // elements
  double max_abs = 0;     // largest difference; NaN where one side is not a number
};

// Tensors that differ, by name. Values are compared as bits, differences computed in f64.
Result<std::vector<TensorDifference>> CompareCheckpoints(const CheckpointReader& a,
                                                         const CheckpointReader& b);

}  // namespace trireme
