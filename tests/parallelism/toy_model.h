// A small language model written out by hand, for tests of this room: embedding, tanh layers, tied
// head, cross-entropy. No kernels, no threads: its bits depend on the order of sums alone.
#pragma once

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "cluster/base/rng.h"
#include "parallelism/parameters.h"
#include "parallelism/stage_model.h"
#include "parallelism/step_losses.h"

namespace trireme::toy {

inline constexpr int64_t kVocabulary = 70, kHidden = 6, kTokens = 5;
inline constexpr int kLayers = 8;

// ids: 0 embedding (tied, two roles), then weight and bias of each layer.
inline std::vector<ParameterSpec> Specs(int stages) {
  std::vector<ParameterSpec> specs;
  ParameterSpec embedding;
  embedding.name = "embedding.weight";
  embedding.shape = embedding.published_shape = {kVocabulary, kHidden};
  embedding.stages = {0};
  if (stages > 1) embedding.stages.push_back(stages - 1);
  embedding.roles = 2;
  specs.push_back(embedding);
  for (int layer = 0; layer < kLayers; ++layer) {
    ParameterSpec weight;
    weight.name = "layers." + std::to_string(layer) + ".weight";
    weight.shape = weight.published_shape = {kHidden, kHidden};
    weight.stages = {layer * stages / kLayers};
    specs.push_back(weight);
    ParameterSpec bias = weight;
    bias.name = "layers." + std::to_string(layer) + ".bias";
    bias.shape = bias.published_shape = {kHidden};
    bias.decay = false;
    specs.push_back(bias);
  }
  return specs;
}

class Model final : public StageModel {
 public:
  Model(ParameterStore* store, int stage, int stages)
      : store_(store),
        first_(stage == 0),
        last_(stage == stages - 1),
        begin_(kLayers * stage / stages),
        end_(kLayers * (stage + 1) / stages) {}

  void set_step(int step) { step_ = step; }
  std::vector<MicrobatchLoss> TakeLosses() { return std::exchange(losses_, {}); }
  int live() const { return static_cast<int>(saved_.size()); }

  CarrySpec InputSpec() const override { return first_ ? CarrySpec{} : Hidden(); }
  CarrySpec OutputSpec() const override { return last_ ? CarrySpec{} : Hidden(); }
  void Reserve(int live) override { reserved_ = live; }
  void Forget(MicrobatchId id) override { saved_.erase(id); }

  Carry Forward(MicrobatchId id, const Carry& input) override {
    Saved& saved = saved_[id];
    CHECK_LE(live(), reserved_) << "more live microbatches than reserved";
    std::vector<float> x(kTokens * kHidden);
    if (first_) {
      const float* table = Weights(0);
      for (int64_t n = 0; n < kTokens; ++n) {
        for (int64_t h = 0; h < kHidden; ++h) {
          x[n * kHidden + h] = table[Token(id, n) * kHidden + h];
        }
      }
    } else {
      std::copy_n(input.items.at(0).tensor.as<float>(), x.size(), x.begin());
    }
    saved.x.push_back(x);
    for (int layer = begin_; layer < end_; ++layer) {
      const float* w = Weights(1 + 2 * layer);
      const float* b = Weights(2 + 2 * layer);
      std::vector<float> y(x.size());
      for (int64_t n = 0; n < kTokens; ++n) {
        for (int64_t j = 0; j < kHidden; ++j) {
          float sum = b[j];
          for (int64_t i = 0; i < kHidden; ++i) sum += x[n * kHidden + i] * w[i * kHidden + j];
          y[n * kHidden + j] = std::tanh(sum) + x[n * kHidden + j];
        }
      }
      x = y;
      saved.x.push_back(x);
    }
    if (last_) {
      Head(id, &saved);
      return {};
    }
    return {{{"hidden", Tensor(saved.x.back().data(), DType::kF32, {kTokens, kHidden})}}};
  }

  Carry BackwardInput(MicrobatchId id, const Carry& output_gradient,
                      WeightGradients when) override {
    Saved& saved = saved_.at(id);
    const bool fused = when == WeightGradients::kWithInput;
    if (last_) {
      HeadBackward(&saved);
      if (fused) HeadWeight(id, saved);
    } else {
      saved.dx.resize(kTokens * kHidden);
      std::copy_n(output_gradient.items.at(0).tensor.as<float>(), saved.dx.size(),
                  saved.dx.begin());
    }
    for (int layer = end_ - 1; layer >= begin_; --layer) {
      LayerBackward(layer, &saved);
      if (fused) LayerWeight(id, layer, saved);
    }
    if (fused) return End(id, &saved);
    if (first_) return {};
    return Input(saved);
  }

  void BackwardWeight(MicrobatchId id) override {
    Saved& saved = saved_.at(id);
    if (last_) HeadWeight(id, saved);
    for (int layer = end_ - 1; layer >= begin_; --layer) LayerWeight(id, layer, saved);
    End(id, &saved);
  }

 private:
  struct Saved {
    std::vector<std::vector<float>> x;     // input of each layer, and the output
    std::map<int, std::vector<float>> dz;  // before tanh, by layer
    std::vector<float> probability;        // (tokens, vocabulary), minus the label's one
    std::vector<float> dx;
  };

  static CarrySpec Hidden() { return {{{"hidden", DType::kF32, {kTokens, kHidden}}}}; }
  int64_t Token(MicrobatchId id, int64_t n) const {
    const CounterRng rng(11, RngUse::kTest, static_cast<uint64_t>(step_) * 1000 + id);
    return static_cast<int64_t>(rng.Below(kVocabulary, n));
  }
  // The values in f32, whatever the store computes with.
  const float* Weights(ParamId id) {
    const Tensor tensor = store_->Acquire(id);
    if (tensor.dtype() == DType::kF32) return tensor.as<float>();
    std::vector<float>& copy = copies_[id];
    copy.resize(tensor.elements());
    for (size_t i = 0; i < copy.size(); ++i) copy[i] = ToFloat(tensor.as<BFloat16>()[i]);
    return copy.data();
  }

  // Adds a microbatch's gradient, element by element.
  void Emit(ParamId id, int role, MicrobatchId microbatch, const std::vector<float>& gradient) {
    const GradientSink sink = store_->Gradients(id, role, microbatch);
    float* out = sink.accumulator.as<float>();
    CHECK_EQ(sink.accumulator.elements(), static_cast<int64_t>(gradient.size()));
    for (size_t i = 0; i < gradient.size(); ++i) {
      out[i] = sink.accumulate ? out[i] + gradient[i] : gradient[i];
    }
    store_->GradientDone(id, role, microbatch);
  }

  void Head(MicrobatchId id, Saved* saved) {
    const float* table = Weights(0);
    const std::vector<float>& y = saved->x.back();
    saved->probability.resize(kTokens * kVocabulary);
    double loss = 0;
    for (int64_t n = 0; n < kTokens; ++n) {
      float* p = &saved->probability[n * kVocabulary];
      double total = 0;
      for (int64_t v = 0; v < kVocabulary; ++v) {
        float logit = 0;
        for (int64_t h = 0; h < kHidden; ++h) logit += y[n * kHidden + h] * table[v * kHidden + h];
        p[v] = std::exp(logit);
        total += p[v];
      }
      const int64_t label = Token(id, n + 1);
      loss -= std::log(p[label] / total);
      for (int64_t v = 0; v < kVocabulary; ++v) p[v] = static_cast<float>(p[v] / total);
      p[label] -= 1;
    }
    losses_.push_back({id, loss, kTokens});
  }

  void HeadBackward(Saved* saved) {
    const float* table = Weights(0);
    saved->dx.assign(kTokens * kHidden, 0);
    for (int64_t n = 0; n < kTokens; ++n) {
      for (int64_t v = 0; v < kVocabulary; ++v) {
        for (int64_t h = 0; h < kHidden; ++h) {
          saved->dx[n * kHidden + h] +=
              saved->probability[n * kVocabulary + v] * table[v * kHidden + h];
        }
      }
    }
  }

  void HeadWeight(MicrobatchId id, const Saved& saved) {
    std::vector<float> gradient(kVocabulary * kHidden, 0);
    for (int64_t n = 0; n < kTokens; ++n) {
      for (int64_t v = 0; v < kVocabulary; ++v) {
        for (int64_t h = 0; h < kHidden; ++h) {
          gradient[v * kHidden + h] +=
              saved.probability[n * kVocabulary + v] * saved.x.back()[n * kHidden + h];
        }
      }
    }
    Emit(0, 1, id, gradient);
  }

  void LayerBackward(int layer, Saved* saved) {
    const float* w = Weights(1 + 2 * layer);
    const std::vector<float>& x = saved->x[layer - begin_];
    const std::vector<float>& y = saved->x[layer - begin_ + 1];
    std::vector<float>& dz = saved->dz[layer];
    dz.resize(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const float t = y[i] - x[i];
      dz[i] = saved->dx[i] * (1 - t * t);
    }
    for (int64_t n = 0; n < kTokens; ++n) {
      for (int64_t i = 0; i < kHidden; ++i) {
        for (int64_t j = 0; j < kHidden; ++j) {
          saved->dx[n * kHidden + i] += dz[n * kHidden + j] * w[i * kHidden + j];
        }
      }
    }
  }

  void LayerWeight(MicrobatchId id, int layer, const Saved& saved) {
    const std::vector<float>& x = saved.x[layer - begin_];
    const std::vector<float>& dz = saved.dz.at(layer);
    std::vector<float> dw(kHidden * kHidden, 0), db(kHidden, 0);
    for (int64_t n = 0; n < kTokens; ++n) {
      for (int64_t j = 0; j < kHidden; ++j) {
        db[j] += dz[n * kHidden + j];
        for (int64_t i = 0; i < kHidden; ++i) {
          dw[i * kHidden + j] += x[n * kHidden + i] * dz[n * kHidden + j];
        }
      }
    }
    Emit(2 + 2 * layer, 0, id, db);
    Emit(1 + 2 * layer, 0, id, dw);
  }

  Carry Input(Saved& saved) {
    // A copy that the next microbatch overwrites: the executor must have taken it by then.
    passed_ = saved.dx;
    return {{{"hidden", Tensor(passed_.data(), DType::kF32, {kTokens, kHidden})}}};
  }

  // The embedding's gradient, and the end of the microbatch.
  Carry End(MicrobatchId id, Saved* saved) {
    Carry carry;
    if (first_) {
      std::vector<float> gradient(kVocabulary * kHidden, 0);
      for (int64_t n = 0; n < kTokens; ++n) {
        for (int64_t h = 0; h < kHidden; ++h) {
          gradient[Token(id, n) * kHidden + h] += saved->dx[n * kHidden + h];
        }
      }
      Emit(0, 0, id, gradient);
    } else {
      carry = Input(*saved);
    }
    saved_.erase(id);
    return carry;
  }

  ParameterStore* store_;
  bool first_, last_;
  int begin_, end_;
  int step_ = 0;
  int reserved_ = 0;
  std::map<MicrobatchId, Saved> saved_;
  std::vector<float> passed_;
  std::map<ParamId, std::vector<float>> copies_;
  std::vector<MicrobatchLoss> losses_;
};

}  // namespace trireme::toy
