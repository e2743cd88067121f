#include "worker/inference/language_model.h"

#include <algorithm>
#include <cstring>

#include "proto/config.pb.h"
#include "worker/kernels/cross_entropy.h"
#include "worker/model/weight_source.h"

namespace trireme {
namespace {

// Tokens a pass takes at most: bounds the scratch memory of long prompts.
constexpr int64_t kTokensPerPass = 512;

}  // namespace

LanguageModel::LanguageModel() = default;
LanguageModel::~LanguageModel() = default;

Result<std::unique_ptr<LanguageModel>> LanguageModel::Load(const std::string& model,
                                                           const Options& options) {
  std::unique_ptr<LanguageModel> loaded(new LanguageModel);
  ASSIGN_OR_RETURN(loaded->source_, WeightSource::Open(model));
  WeightSource& source = *loaded->source_;
  loaded->shape_ = ModelShape::From(source.config());
  loaded->specs_ = ParameterSpecs(loaded->shape_, 1, 1);
  loaded->stream_ = std::make_unique<Stream>(options.threads);
  ASSIGN_OR_RETURN(
      loaded->parameters_,
      FrozenParameters::Load(loaded->specs_, Mesh(), 0, options.compute, *loaded->stream_,
                             [&](const ParameterSpec& spec, const Box& region, float* out) {
                               return source.Read(spec.name, spec.shape, region, out);
                             }));
  BlockContext& context = loaded->context_;
  context.stream = loaded->stream_.get();
  context.parameters = loaded->parameters_.get();
  context.compute = options.compute;
  loaded->blocks_ = DecoderBlocks::Build(&context, loaded->shape_, loaded->specs_, Mesh(), 0,
                                         Recompute::kNone, loaded->shape_.max_positions);
  return loaded;
}

void LanguageModel::EnsureScratch(TokenShape tokens) {
  if (tokens.tokens() <= scratch_tokens_) return;
  scratch_tokens_ = tokens.tokens();
  const int64_t n = tokens.tokens(), h = shape_.hidden_size;
  // One layer's memory serves all; every other buffer here is at most [N, H] f32.
  Arena measure = Arena::Measuring();
  blocks_.layers[0]->Allocate(measure, {1, n});
  const int64_t bytes = measure.used_bytes_max() + blocks_.layers[0]->ScratchBytes({1, n}, false) +
                        8 * Arena::RoundUp(n * h * ByteSize(DType::kF32)) +
                        blocks_.classifier->ScratchBytes(n) + blocks_.embedding->ScratchBytes(n) +
                        16 * Arena::RoundUp(n * ByteSize(DType::kF32)) + (1 << 16);
  context_.scratch = Arena(bytes);
}

std::vector<float> LanguageModel::TokenLosses(int64_t batch, int64_t length,
                                              std::span<const int32_t> ids,
                                              std::span<const int32_t> labels) {
  const TokenShape tokens{batch, length};
  const int64_t n = tokens.tokens(), h = shape_.hidden_size;
  CHECK_EQ(static_cast<int64_t>(ids.size()), n);
  CHECK_EQ(static_cast<int64_t>(labels.size()), n);
  EnsureScratch(tokens);
  Arena& scratch = context_.scratch;
  const int64_t mark = scratch.Mark();
  const Tensor id_tensor = scratch.Allocate(DType::kI32, {n});
  const Tensor label_tensor = scratch.Allocate(DType::kI32, {n});
  TokenPlaces places{scratch.Allocate(DType::kI32, {batch, length}), Tensor()};
  std::memcpy(id_tensor.data(), ids.data(), id_tensor.bytes());
  std::memcpy(label_tensor.data(), labels.data(), label_tensor.bytes());
  for (int64_t i = 0; i < n; ++i) places.positions.as<int32_t>()[i] = i % length;

  Tensor x = scratch.Allocate(context_.compute, {n, h});
  const Tensor delta = scratch.Allocate(blocks_.layers[0]->DeltaDType(), {n, h});
  const DecoderLayer::Saved memory = blocks_.layers[0]->Allocate(scratch, tokens);
  blocks_.embedding->Forward(id_tensor, places, x);
  bool has_delta = false;
  for (const auto& layer : blocks_.layers) {
    DecoderLayer::Saved saved = memory;
    x = layer->Forward(tokens, places, x, has_delta, delta, Tensor(), &saved);
    has_delta = true;
  }
  const Tensor normed = scratch.Allocate(context_.compute, {n, h});
  const NormStatistics statistics = blocks_.final_norm->AllocateStatistics(scratch, n);
  blocks_.final_norm->Forward(x, delta, x, normed, statistics);
  const Tensor losses = scratch.Allocate(DType::kF32, {n});
  blocks_.classifier->Evaluate(normed, label_tensor, losses);
  std::vector<float> result(losses.as<float>(), losses.as<float>() + n);
  scratch.Release(mark);
  return result;
}

LanguageModel::Session::Session(LanguageModel* model, int64_t batch, int64_t capacity)
    : model_(model), batch_(batch), capacity_(capacity) {
  const ModelShape& shape = model->shape_;
  const Shape cache_shape{batch, capacity, shape.kv_heads, shape.head_dim};
  const DType dtype = model->context_.compute;
  const int64_t bytes = Arena::RoundUp(ElementCount(cache_shape) * ByteSize(dtype));
  cache_memory_ = Buffer(2 * shape.layers * bytes);
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    std::byte* at = cache_memory_.data() + 2 * layer * bytes;
    caches_.push_back({Tensor(at, dtype, cache_shape), Tensor(at + bytes, dtype, cache_shape)});
  }
}

Tensor LanguageModel::Session::Append(std::span<const int32_t> ids) { return Run(ids, false); }

Tensor LanguageModel::Session::AppendWithAllLogits(std::span<const int32_t> ids) {
  return Run(ids, true);
}

Tensor LanguageModel::Session::Run(std::span<const int32_t> ids, bool all) {
  const int64_t length = static_cast<int64_t>(ids.size()) / batch_;
  const int64_t vocab = model_->shape_.vocab_size, h = model_->shape_.hidden_size;
  CHECK_EQ(length * batch_, static_cast<int64_t>(ids.size()));
  CHECK_GT(length, 0);
  CHECK_LE(length_ + length, capacity_);
  const int64_t rows = all ? batch_ * length : batch_;
  if (logits_memory_.bytes() < rows * vocab * ByteSize(DType::kF32)) {
    logits_memory_ = Buffer(rows * vocab * ByteSize(DType::kF32));
  }
  const Tensor logits = logits_memory_.AsTensor(DType::kF32, {rows, vocab});
  const int64_t step = std::max<int64_t>(1, kTokensPerPass / batch_);
  model_->EnsureScratch({batch_, std::min(step, length)});
  Arena& scratch = model_->context_.scratch;
  const DecoderBlocks& blocks = model_->blocks_;
  for (int64_t begin = 0; begin < length; begin += step) {
    const int64_t t = std::min(step, length - begin), n = batch_ * t, mark = scratch.Mark();
    const TokenShape tokens{batch_, t};
    const Tensor new_ids = scratch.Allocate(DType::kI32, {n});
    const TokenPlaces places{scratch.Allocate(DType::kI32, {batch_, t}), Tensor()};
    const Tensor lengths = scratch.Allocate(DType::kI32, {batch_});
    for (int64_t b = 0; b < batch_; ++b) {
      lengths.as<int32_t>()[b] = static_cast<int32_t>(length_ + t);
      for (int64_t i = 0; i < t; ++i) {
        new_ids.as<int32_t>()[b * t + i] = ids[b * length + begin + i];
        places.positions.as<int32_t>()[b * t + i] = static_cast<int32_t>(length_ + i);
      }
    }
    const Tensor x = scratch.Allocate(model_->context_.compute, {n, h});
    blocks.embedding->Forward(new_ids, places, x);
    for (size_t layer = 0; layer < blocks.layers.size(); ++layer) {
      blocks.layers[layer]->Decode(tokens, places, x, caches_[layer], lengths);
    }
    length_ += t;
    const Tensor normed = scratch.Allocate(model_->context_.compute, {n, h});
    const NormStatistics statistics = blocks.final_norm->AllocateStatistics(scratch, n);
    blocks.final_norm->Forward(x, Tensor(), Tensor(), normed, statistics);
    for (int64_t b = 0; b < batch_; ++b) {
      if (all) {
        const int64_t row = b * length + begin;
        blocks.classifier->Logits(normed.Rows(b * t, (b + 1) * t), logits.Rows(row, row + t));
      } else if (begin + t == length) {
        // The last token of each sequence, side by side.
        model_->stream_->Copy(x.Rows(b, b + 1).data(),
                              normed.Rows((b + 1) * t - 1, (b + 1) * t).data(),
                              h * ByteSize(normed.dtype()));
      }
    }
    if (!all && begin + t == length) blocks.classifier->Logits(x.Rows(0, batch_), logits);
    scratch.Release(mark);
  }
  return logits;
}

void LanguageModel::Session::Reorder(std::span<const int> parents) {
  CHECK_EQ(static_cast<int64_t>(parents.size()), batch_);
  for (const KeyValueCache& cache : caches_) {
    for (const Tensor& tensor : {cache.keys, cache.values}) {
      const int64_t row = tensor.bytes() / batch_;
      std::vector<std::byte> old(tensor.bytes_data(), tensor.bytes_data() + tensor.bytes());
      for (int64_t b = 0; b < batch_; ++b) {
        std::memcpy(tensor.bytes_data() + b * row, old.data() + parents[b] * row, row);
      }
    }
  }
}

void LanguageModel::Session::Truncate(int64_t length) {
  CHECK_LE(length, length_);
  length_ = length;
}

}  // namespace trireme
