// WeightSource: the named tensors of a MODEL, whatever form it comes in: a run's folder, a
// checkpoint, a Hugging Face folder, llama2.c's or llm.c's .bin.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cluster/base/box.h"
#include "cluster/base/status.h"
#include "storage/checkpoint_reader.h"

namespace trireme {

namespace proto {
class ModelConfig;
}

class WeightBackend;
struct OpenedWeights;

// Tensors appear under the names and shapes of Hugging Face's files, however they are stored.
// Reading is thread-safe.
class WeightSource {
 public:
  // MODEL: a run's folder (its newest checkpoint that verifies), a checkpoint (path, file:///,
  // each with "@50" for a step), a Hugging Face folder (config.json + safetensors, sharded or
  // not), a llama2.c .bin (version 0), a llm.c .bin (version 3 or 5).
  //
  // Every tensor that the model needs is there afterwards, in its right shape and in a type that
  // converts to f32. Errors: kDataLoss (no such model, missing tensors, wrong shapes, truncated
  // files), kStorage (checkpoints that are missing or corrupt), kNotBuilt (.gguf, s3://, families
  // that are not built).
  static Result<std::unique_ptr<WeightSource>> Open(const std::string& model);
  ~WeightSource();

  // Filled in.
  const proto::ModelConfig& config() const;
  // What the model needs, in the order of its forward pass; a tied head is not among them. The
  // types are the stored ones.
  std::vector<TensorInfo> tensors() const;
  // Reads `box`, row-major, as f32. The box is meant in `view_shape`: the published shape or one
  // with dims split further. "lm_head.weight" of a tied model is the embedding.
  // Errors: kDataLoss: an unknown name, another shape, a NaN or infinite value (with its index).
  Status Read(const std::string& name, const Shape& view_shape, const Box& box, float* out) const;
  Status Read(const std::string& name, const Box& box, float* out) const;

  // A tokenizer that comes with the model: a file or a folder.
  std::optional<std::string> tokenizer_path() const;
  // Tokens that end a text.
  std::vector<int32_t> end_ids() const;
  // The sequence length of the training run, or the positions that the model has.
  int64_t training_length() const;
  // Of a checkpoint.
  std::optional<int64_t> step() const;
  // Newer checkpoints of a store that do not verify, each with the reason: something for users.
  const std::vector<std::string>& set_aside() const;
  // A local folder of Hugging Face's, with its other files; empty for other forms.
  std::string hugging_face_folder() const;

 private:
  explicit WeightSource(std::unique_ptr<OpenedWeights> opened);
  Status CheckTensors();
  const TensorInfo* Find(const std::string& name) const;

  std::unique_ptr<OpenedWeights> opened_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t> index_;    // published name to tensors_
  std::vector<std::string> stored_names_;  // parallel to tensors_
};

}  // namespace trireme
