// Writing checkpoints: every rank writes its boxes as chunk files, then one process merges the
// ranks' parts and writes the manifest, which makes the checkpoint exist.
//
// STORE/step_00000050/rank_00001_0.safetensors    chunks, complete before they are visible
// STORE/step_00000050/manifest.json               last, exclusively
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cluster/base/box.h"
#include "cluster/base/status.h"
#include "cluster/device/dtype.h"
#include "storage/object_store.h"

namespace trireme {

namespace proto {
class Config;
}

// A box of a named tensor in this process's memory.
struct TensorPiece {
  std::string name;  // Hugging Face's, or "optimizer.m.NAME", "optimizer.v.NAME"
  DType dtype = DType::kF32;
  Shape shape;            // of the whole tensor as the box sees it; may be a view with split dims
  Shape published_shape;  // of the whole tensor as it is stored
  Box box;                // in `shape`
  const std::byte* data = nullptr;  // the box, row-major; borrowed for the call
};

struct ChunkOptions {
  int64_t step = 0;
  int64_t generation = 1;  // later generations write under names of their own
  int rank = 0;
  int64_t chunk_bytes_max = int64_t{1} << 30;  // a new file is begun beyond it
};

// Writes the pieces as chunks and returns this rank's part of the manifest, for CommitCheckpoint.
// Boxes of a view are stored as boxes of the published tensor. Until the manifest is there, the
// chunks do not exist for readers. Errors: kStorage; what was written before stays as leftovers
// (see SweepCheckpoints).
Result<std::string> WriteCheckpointChunks(ObjectStore& store, const ChunkOptions& options,
                                          std::span<const TensorPiece> pieces);

// What a manifest says besides its chunks.
struct CheckpointFacts {
  int64_t step = 0;
  int64_t generation = 1;
  int64_t parent_step = -1;               // of the checkpoint last loaded; -1: none
  const proto::Config* config = nullptr;  // filled in
  std::string product_library;
  std::string instruction_set;  // empty: this machine's
  int64_t sum_leaves = 1;
  std::string sum_order = "leaf_first";
  int64_t samples = 0;  // sequences, tokens and label tokens consumed so far
  int64_t tokens = 0;
  int64_t label_tokens = 0;
  std::vector<std::string> train_data;  // TokenFile::Fingerprint() of data.train, in order
  std::string created;                  // UTC, ISO 8601; part of no hash
};

// Merges the parts of all ranks, checks that their boxes tile every tensor exactly and that the
// chunks are in the store, then creates the manifest, exclusively.
// Errors: kInternal (parts of another step or generation, boxes that do not tile), kStorage (a
// chunk is missing or has another size, the store failed, or the manifest exists already: see
// DiscardCheckpointsAfter). Without OK the checkpoint does not exist.
Status CommitCheckpoint(ObjectStore& store, const CheckpointFacts& facts,
                        std::span<const std::string> parts);

// The widest vector instructions of this machine, as far as they change a product's bits.
std::string InstructionSet();

// "step_00000050".
std::string CheckpointFolder(int64_t step);

}  // namespace trireme
