// Small models in every form in which models are read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "cluster/base/box.h"
#include "cluster/device/dtype.h"
#include "storage/object_store.h"

namespace trireme {

namespace proto {
class ModelConfig;
}

struct NamedTensor {
  Shape shape;
  std::vector<float> values;
};
using NamedTensors = std::map<std::string, NamedTensor>;

proto::ModelConfig SmallLlama(bool tied = false);
proto::ModelConfig SmallGpt2();
// Every parameter of the model; values that bf16 holds exactly.
NamedTensors RandomWeights(const proto::ModelConfig& config);

void WriteHuggingFace(const std::string& folder, const proto::ModelConfig& config,
                      const NamedTensors& tensors, DType dtype = DType::kF32);
void WriteLlama2c(const std::string& path, const proto::ModelConfig& config,
                  const NamedTensors& tensors);
void WriteLlmc(const std::string& path, const proto::ModelConfig& config,
               const NamedTensors& tensors, int32_t version);
// Little-endian int32 as a file.
void WriteInts(const std::string& path, const std::vector<int32_t>& values);

}  // namespace trireme
