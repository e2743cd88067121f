#include "worker/inference/language_model.h"

#include <algorithm>
#include <numeric>

#include "proto/config.pb.h"
#include "worker/kernels/cross_entropy.h"
#include "worker/model/weight_source.h"

namespace trireme {
namespace {

// Tokens a pass takes at most: bounds the scratch memory of long prompts.
constexpr int64_t kTokensPerPass = 512;

// `parts` rows of i32 side by side in memory, each of at least `count` values and aligned as other
// tensors are, for one copy to carry.
Tensor AllocateInputs(Arena& arena, int64_t parts, int64_t count) {
  const int64_t stride = Arena::RoundUp(count * ByteSize(DType::kI32)) / ByteSize(DType::kI32);
  return arena.Allocate(DType::kI32, {parts, stride});
}

// The first values of row `part`.
Tensor Input(const Tensor& inputs, int64_t part, std::initializer_list<int64_t> dims) {
  return Tensor(inputs.Rows(part, part + 1).data(), DType::kI32, dims, inputs.device());
}

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
  loaded->stream_ = options.gpu ? std::make_unique<Stream>(*options.gpu)
                                : std::make_unique<Stream>(options.threads);
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
  context.device = loaded->stream_->device();
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
  context_.scratch = Arena(bytes, stream_->device());
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
  const Tensor inputs = AllocateInputs(scratch, 3, n);
  const Tensor id_tensor = Input(inputs, 0, {n}), label_tensor = Input(inputs, 1, {n});
  const TokenPlaces places{Input(inputs, 2, {batch, length}), Tensor()};
  int32_t* values = inputs_.Open(inputs);
  std::copy(ids.begin(), ids.end(), values);
  std::copy(labels.begin(), labels.end(), values + inputs.dim(1));
  for (int64_t i = 0; i < n; ++i) values[2 * inputs.dim(1) + i] = static_cast<int32_t>(i % length);
  inputs_.Send(*stream_, inputs);

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
  const float* on_host = BringLosses(losses);
  std::vector<float> result(on_host, on_host + n);
  scratch.Release(mark);
  return result;
}

const float* LanguageModel::BringLosses(const Tensor& losses) {
  if (losses.device() == DeviceKind::kCpu) return losses.as<float>();
  if (losses_memory_.bytes() < losses.bytes()) losses_memory_ = Buffer::Pinned(losses.bytes());
  stream_->Copy(losses_memory_.data(), losses.data(), losses.bytes());
  stream_->Synchronize();
  return reinterpret_cast<const float*>(losses_memory_.data());
}

LanguageModel::Session::Session(LanguageModel* model, int64_t batch, int64_t capacity)
    : model_(model), batch_(batch), capacity_(capacity) {
  const ModelShape& shape = model->shape_;
  const DeviceKind device = model->stream_->device();
  const Shape cache_shape{batch, capacity, shape.kv_heads, shape.head_dim};
  const DType dtype = model->context_.compute;
  const int64_t bytes = Arena::RoundUp(ElementCount(cache_shape) * ByteSize(dtype));
  cache_memory_ = Buffer(2 * shape.layers * bytes, device, "key-value cache");
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    std::byte* at = cache_memory_.data() + 2 * layer * bytes;
    caches_.push_back(
        {Tensor(at, dtype, cache_shape, device), Tensor(at + bytes, dtype, cache_shape, device)});
  }
}

Tensor LanguageModel::Session::Append(std::span<const int32_t> ids) { return Run(ids, false); }

Tensor LanguageModel::Session::AppendWithAllLogits(std::span<const int32_t> ids) {
  return Run(ids, true);
}

LanguageModel::Session::Logits LanguageModel::Session::LogitsMemory(int64_t rows,
                                                                    int64_t rows_in_pass) {
  const int64_t vocab = model_->shape_.vocab_size, row = vocab * ByteSize(DType::kF32);
  const bool on_gpu = model_->stream_->device() != DeviceKind::kCpu;
  if (logits_memory_.bytes() < rows * row) {
    logits_memory_ = on_gpu ? Buffer::Pinned(rows * row) : Buffer(rows * row);
  }
  Logits logits;
  logits.on_host = logits.on_device = logits_memory_.AsTensor(DType::kF32, {rows, vocab});
  if (!on_gpu) return logits;
  if (logits_on_gpu_.bytes() < rows_in_pass * row) {
    logits_on_gpu_ = Buffer(rows_in_pass * row, DeviceKind::kCuda);
  }
  logits.on_device = logits_on_gpu_.AsTensor(DType::kF32, {rows_in_pass, vocab});
  return logits;
}

Tensor LanguageModel::Session::RunPass(std::span<const int32_t> ids, int64_t length, int64_t begin,
                                       int64_t t) {
  const int64_t n = batch_ * t, h = model_->shape_.hidden_size;
  const TokenShape tokens{batch_, t};
  Stream& stream = *model_->stream_;
  Arena& scratch = model_->context_.scratch;
  const DecoderBlocks& blocks = model_->blocks_;
  const Tensor inputs = AllocateInputs(scratch, 3, n);
  const Tensor new_ids = Input(inputs, 0, {n}), lengths = Input(inputs, 2, {batch_});
  const TokenPlaces places{Input(inputs, 1, {batch_, t}), Tensor()};
  int32_t* values = model_->inputs_.Open(inputs);
  int32_t* positions = values + inputs.dim(1);
  for (int64_t b = 0; b < batch_; ++b) {
    std::copy_n(ids.begin() + b * length + begin, t, values + b * t);
    std::iota(positions + b * t, positions + (b + 1) * t, static_cast<int32_t>(length_));
  }
  std::fill_n(positions + inputs.dim(1), batch_, static_cast<int32_t>(length_ + t));
  model_->inputs_.Send(stream, inputs);

  const Tensor x = scratch.Allocate(model_->context_.compute, {n, h});
  blocks.embedding->Forward(new_ids, places, x);
  for (size_t layer = 0; layer < blocks.layers.size(); ++layer) {
    blocks.layers[layer]->Decode(tokens, places, x, caches_[layer], lengths);
  }
  length_ += t;
  const Tensor normed = scratch.Allocate(model_->context_.compute, {n, h});
  const NormStatistics statistics = blocks.final_norm->AllocateStatistics(scratch, n);
  blocks.final_norm->Forward(x, Tensor(), Tensor(), normed, statistics);
  return normed;
}

Tensor LanguageModel::Session::Run(std::span<const int32_t> ids, bool all) {
  const int64_t length = static_cast<int64_t>(ids.size()) / batch_;
  CHECK_EQ(length * batch_, static_cast<int64_t>(ids.size()));
  CHECK_GT(length, 0);
  CHECK_LE(length_ + length, capacity_);
  const int64_t step = std::min(length, std::max<int64_t>(1, kTokensPerPass / batch_));
  model_->EnsureScratch({batch_, step});
  const Logits logits = LogitsMemory(all ? batch_ * length : batch_, all ? step : batch_);
  for (int64_t begin = 0; begin < length; begin += step) {
    const int64_t t = std::min(step, length - begin), mark = model_->context_.scratch.Mark();
    const Tensor hidden = RunPass(ids, length, begin, t);
    for (int64_t b = 0; all && b < batch_; ++b) {
      const int64_t row = b * length + begin;
      MakeLogits(hidden.Rows(b * t, (b + 1) * t), logits, row);
    }
    if (!all && begin + t == length) MakeLogits(LastTokens(hidden), logits, 0);
    model_->context_.scratch.Release(mark);
  }
  model_->stream_->Synchronize();
  return logits.on_host;
}

Tensor LanguageModel::Session::LastTokens(const Tensor& hidden) {
  if (hidden.dim(0) == batch_) return hidden;
  const int64_t t = hidden.dim(0) / batch_, h = hidden.dim(1);
  const Tensor last = model_->context_.scratch.Allocate(hidden.dtype(), {batch_, h});
  for (int64_t b = 0; b < batch_; ++b) {
    const Tensor row = hidden.Rows((b + 1) * t - 1, (b + 1) * t);
    model_->stream_->Copy(last.Rows(b, b + 1).data(), row.data(), row.bytes());
  }
  return last;
}

void LanguageModel::Session::MakeLogits(const Tensor& hidden, const Logits& logits, int64_t row) {
  const Tensor target = logits.on_host.Rows(row, row + hidden.dim(0));
  const bool moves = logits.on_device.device() != DeviceKind::kCpu;
  const Tensor made = moves ? logits.on_device.Rows(0, hidden.dim(0)) : target;
  model_->blocks_.classifier->Logits(hidden, made);
  if (moves) model_->stream_->Copy(target.data(), made.data(), made.bytes());
}

void LanguageModel::Session::Reorder(std::span<const int> parents) {
  CHECK_EQ(static_cast<int64_t>(parents.size()), batch_);
  Stream& stream = *model_->stream_;
  const int64_t row = caches_[0].keys.bytes() / batch_, filled = row / capacity_ * length_;
  if (reorder_memory_.bytes() == 0) reorder_memory_ = Buffer(batch_ * row, stream.device());
  for (const KeyValueCache& cache : caches_) {
    for (const Tensor& tensor : {cache.keys, cache.values}) {
      // All rows leave before any is written.
      for (int64_t b = 0; b < batch_; ++b) {
        CHECK(parents[b] >= 0 && parents[b] < batch_) << parents[b];
        stream.Copy(reorder_memory_.data() + b * row, tensor.bytes_data() + parents[b] * row,
                    filled);
      }
      for (int64_t b = 0; b < batch_; ++b) {
        stream.Copy(tensor.bytes_data() + b * row, reorder_memory_.data() + b * row, filled);
      }
    }
  }
}

void LanguageModel::Session::Truncate(int64_t length) {
  CHECK_LE(length, length_);
  length_ = length;
}

}  // namespace trireme
