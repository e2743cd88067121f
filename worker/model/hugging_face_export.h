// Writing a model as the folder that transformers loads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cluster/base/status.h"
#include "cluster/device/dtype.h"
#include "storage/object_store.h"

namespace trireme {

class WeightSource;

struct HuggingFaceExportOptions {
  // Of the written weights; nothing: as they are stored, or f32 when they differ.
  std::optional<DType> dtype;
  int64_t shard_bytes_max = 5'000'000'000;  // larger models are sharded, as transformers does
  // The caller has put a tokenizer.json into the store: the model's own is not written.
  bool has_tokenizer = false;
};

struct HuggingFaceExportReport {
  int64_t tensors = 0;
  int64_t parameters = 0;
  int64_t bytes = 0;  // of tensors
  int64_t files = 0;  // of weights
  DType dtype = DType::kF32;
};

// Writes config.json, generation_config.json, model.safetensors (or its shards and their index),
// and the tokenizer's files where the model brings them, into `store`. Memory: a block of rows.
// Errors: kStorage (a full disk), kDataLoss (weights that are not finite).
Result<HuggingFaceExportReport> ExportHuggingFace(const WeightSource& source,
                                                  const HuggingFaceExportOptions& options,
                                                  ObjectStore& store);

// Whether an export may have written a file of this name: of a folder, nothing else is replaced.
bool IsExportedFile(const std::string& name);

}  // namespace trireme
