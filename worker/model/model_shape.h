// ModelShape: an architecture in plain numbers, as the blocks need it; and the parameters it has.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallelism/parameters.h"

namespace trireme {

namespace proto {
class ModelConfig;
}

enum class ModelFamily { kGpt2, kLlama };

// Which optional parts a family's decoder layer has; filled from a ModelConfig (model_config.h has
// set every field).
struct ModelShape {
  ModelFamily family = ModelFamily::kLlama;
  int64_t vocab_size = 0;         // V
  int64_t hidden_size = 0;        // H
  int64_t intermediate_size = 0;  // F
  int64_t layers = 0;
  int64_t heads = 0;  // query heads
  int64_t kv_heads = 0;
  int64_t head_dim = 0;  // D
  int64_t max_positions = 0;
  double norm_eps = 1e-5;
  bool tied = false;  // the head shares the embedding's table
  bool attention_bias = false;
  bool mlp_bias = false;
  double init_std = 0.02;
  // Rotary positions (llama).
  double rope_theta = 10000.0;
  std::string rope_type = "default";  // default, linear, llama3
  double rope_factor = 1, rope_low_freq_factor = 1, rope_high_freq_factor = 4;
  int64_t rope_original_positions = 0;

  static ModelShape From(const proto::ModelConfig& config);
};

// The layers [begin, end) that stage `stage` of `stages` holds.
struct LayerRange {
  int64_t begin;
  int64_t end;
};
LayerRange StageLayers(int64_t layers, int stages, int stage);

// All parameters of the model in the order of the forward pass, with their cuts over a tensor axis
// of `tensor` ranks and the stages of a pipeline that hold them. ParamId is the index here, the
// same on every rank.
std::vector<ParameterSpec> ParameterSpecs(const ModelShape& shape, int tensor, int stages);

// inv_freq[i], i < head_dim / 2, after the scaling that `rope_type` names.
// Su et al. 2021, arXiv:2104.09864; llama3: the frequency-dependent scaling of Llama 3.1.
std::vector<double> RotaryInverseFrequencies(const ModelShape& shape);

// The published initial value of element `element` (row-major in the published shape) of a
// parameter; the same whatever the layout.
float InitialValue(const ParameterSpec& spec, uint64_t seed, int64_t element);
// The elements of `region` of a freshly initialised parameter, row-major.
void FillInitialValues(const ParameterSpec& spec, uint64_t seed, const Box& region, float* out);

// Multiply-adds that a token of training costs, times two: 6N + 6LCT with N all parameters (docs of
// the benchmarks), L layers, C hidden size, T length; causal attention counted once.
double TrainingFlopPerToken(const ModelShape& shape, int64_t parameters, int64_t length);

}  // namespace trireme
