// Small models written as files and loaded as users' models are, and a tokenizer of bytes.
#pragma once

#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "proto/config.pb.h"
#include "tests/storage/temporary_folder.h"
#include "tests/worker_model_io/model_files.h"
#include "worker/inference/language_model.h"
#include "worker/text/bpe_tokenizer.h"

namespace trireme {

class LoadedModel {
 public:
  LoadedModel(const proto::ModelConfig& config, const NamedTensors& weights) {
    WriteHuggingFace(folder_.path(), config, weights);
    model_ = LanguageModel::Load(folder_.path(), {}).value();
  }
  // Random weights that give logits of a few units.
  explicit LoadedModel(const proto::ModelConfig& config)
      : LoadedModel(config, MildWeights(config)) {}

  LanguageModel* get() { return model_.get(); }

 private:
  static NamedTensors MildWeights(const proto::ModelConfig& config) {
    NamedTensors weights = RandomWeights(config);
    for (auto& [name, tensor] : weights) {
      if (tensor.shape.size() < 2) continue;
      for (float& value : tensor.values) value *= 0.25f;
    }
    return weights;
  }

  TemporaryFolder folder_;
  std::unique_ptr<LanguageModel> model_;
};

// Token i < 256 is byte i; 256 is <|endoftext|>; then come `words`, which Encode never gives.
inline std::unique_ptr<Tokenizer> ByteTokenizer(const std::vector<std::string>& words = {}) {
  BpeDefinition definition;
  for (int i = 0; i < 256; ++i) {
    definition.tokens.push_back(std::string(1, static_cast<char>(i)));
    definition.byte_ids[i] = i;
  }
  definition.tokens.push_back("<|endoftext|>");
  definition.tokens.insert(definition.tokens.end(), words.begin(), words.end());
  definition.present.assign(definition.tokens.size(), true);
  definition.added.push_back({.id = 256, .content = "<|endoftext|>"});
  definition.end_of_text = 256;
  return MakeBpeTokenizer(std::move(definition), "bytes").value();
}

// log softmax(logits)[id], every step in double.
inline double ReferenceLogProbability(std::span<const float> logits, int32_t id) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  return static_cast<double>(logits[id]) - std::log(sum);
}

// log p(ids[i + 1] | ids[.. i]) for every i, from the logits of passes of one token each.
inline std::vector<double> ReferenceLogProbabilities(LanguageModel* model,
                                                     const std::vector<int32_t>& ids) {
  LanguageModel::Session session(model, 1, static_cast<int64_t>(ids.size()));
  std::vector<double> logprobs;
  for (size_t i = 0; i + 1 < ids.size(); ++i) {
    const Tensor logits = session.Append({&ids[i], 1});
    logprobs.push_back(ReferenceLogProbability(
        {logits.as<float>(), static_cast<size_t>(logits.dim(1))}, ids[i + 1]));
  }
  return logprobs;
}

}  // namespace trireme
