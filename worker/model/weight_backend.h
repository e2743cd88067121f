// The forms in which models come. Each opens its files and answers for tensors by the names that
// they are stored under; WeightSource checks them against the model.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "storage/checkpoint_location.h"

namespace trireme {

namespace proto {
class ModelConfig;
}

class WeightBackend {
 public:
  virtual ~WeightBackend() = default;
  // Shape and type of a stored tensor, as published; nothing when there is none of that name.
  virtual std::optional<TensorInfo> Find(std::string_view name) const = 0;
  // Reads a box of it as f32. The name is there and the box is in its shape.
  virtual Status Read(std::string_view name, const Box& box, float* out) const = 0;
  // The file that holds (or should hold) the tensor, for messages.
  virtual std::string PlaceOf(std::string_view name) const = 0;
};

// Everything that opening a model yields.
struct OpenedWeights {
  OpenedWeights();
  ~OpenedWeights();

  std::unique_ptr<proto::ModelConfig> config;  // filled in; never null
  std::unique_ptr<WeightBackend> backend;
  std::optional<std::string> tokenizer_path;
  std::vector<int32_t> end_ids;
  int64_t training_length = 0;
  std::optional<int64_t> step;
  std::vector<std::string> set_aside;  // OpenedCheckpoint
  std::string hugging_face_folder;
};

Result<std::unique_ptr<OpenedWeights>> OpenCheckpointWeights(const std::string& model);
Result<std::unique_ptr<OpenedWeights>> OpenHuggingFaceWeights(const std::string& folder);
Result<std::unique_ptr<OpenedWeights>> OpenLlama2cWeights(const std::string& path);
Result<std::unique_ptr<OpenedWeights>> OpenLlmcWeights(const std::string& path);

// Fills in and checks a configuration that a file implies; kDataLoss with the file's path.
Status FinishModelConfig(const std::string& path, proto::ModelConfig* config);

// The first int32 of an llm.c model file.
inline constexpr int32_t kLlmcMagic = 20240326;

}  // namespace trireme
