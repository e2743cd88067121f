#include "worker/model/decoder_stage.h"

#include <algorithm>
#include <utility>

#include "worker/kernels/activation.h"

namespace trireme {

// What one live microbatch keeps.
struct DecoderStage::Slot {
  MicrobatchId microbatch = -1;
  Arena arena;
  std::vector<DecoderLayer::Saved> layers;
  Tensor embedded;  // first stage
  Tensor x_out;     // [N, H]: the stage's output, or the final norm's input
  Tensor normed;    // last stage
  NormStatistics norm;
  Tensor dnormed;  // [N, H] f32: made with the loss
  Tensor dx;       // [N, H]: the gradient on its way down the layers
  Arena deferred;  // operands of weight gradients that come later
  WeightWork work{false};
};

namespace {

std::string NameOf(const ModelShape& shape, const char* gpt2, const char* llama) {
  return shape.family == ModelFamily::kGpt2 ? gpt2 : llama;
}

}  // namespace

DecoderStage::DecoderStage(const StageOptions& options, const std::vector<ParameterSpec>& specs,
                           Stream* stream, ParameterStore* parameters, TensorGroup tensor,
                           MicrobatchSource source)
    : options_(options), source_(std::move(source)) {
  const ModelShape& shape = options_.shape;
  context_.stream = stream;
  context_.parameters = parameters;
  context_.tensor = std::move(tensor);
  context_.compute = options.compute;
  if (shape.family == ModelFamily::kLlama) {
    rotary_ = std::make_unique<RotaryTable>(shape, std::max(options.tokens.length, int64_t{1}));
  }
  const std::string table_name =
      NameOf(shape, "transformer.wte.weight", "model.embed_tokens.weight");
  const ParamId table = FindParameter(specs, table_name);
  const Box rows =
      LocalRegion(specs[table].shape, specs[table].placement, options.mesh, options.rank);
  if (first()) {
    embedding_ =
        std::make_unique<EmbeddingBlock>(&context_, shape.hidden_size, table, rows.offset[0],
                                         FindParameter(specs, "transformer.wpe.weight"));
  }
  const LayerRange range = StageLayers(shape.layers, options.mesh.size(Axis::kPipeline),
                                       options.mesh.Index(options.rank, Axis::kPipeline));
  for (int64_t layer = range.begin; layer < range.end; ++layer) {
    layers_.push_back(std::make_unique<DecoderLayer>(&context_, shape, specs, layer, rotary_.get(),
                                                     options.recompute));
  }
  if (last()) {
    const std::string norm = NameOf(shape, "transformer.ln_f", "model.norm");
    final_norm_ = std::make_unique<NormBlock>(
        &context_, shape.family == ModelFamily::kGpt2 ? NormKind::kLayer : NormKind::kRms,
        shape.norm_eps, FindParameter(specs, norm + ".weight"),
        FindParameter(specs, norm + ".bias"));
    const ParamId head = shape.tied ? table : FindParameter(specs, "lm_head.weight");
    classifier_ = std::make_unique<Classifier>(&context_, shape.hidden_size, head,
                                               shape.tied ? 1 : 0, rows.offset[0], rows.extent[0]);
  }
}

DecoderStage::~DecoderStage() = default;

bool DecoderStage::last() const {
  return options_.mesh.Index(options_.rank, Axis::kPipeline) ==
         options_.mesh.size(Axis::kPipeline) - 1;
}

CarrySpec DecoderStage::InputSpec() const {
  if (first()) return {};
  return {{{"hidden", options_.compute, {options_.tokens.tokens(), options_.shape.hidden_size}}}};
}

CarrySpec DecoderStage::OutputSpec() const {
  if (last()) return {};
  return {{{"hidden", options_.compute, {options_.tokens.tokens(), options_.shape.hidden_size}}}};
}

void DecoderStage::Allocate(Arena& arena, Slot* slot) const {
  const int64_t n = options_.tokens.tokens(), h = options_.shape.hidden_size;
  if (first()) slot->embedded = arena.Allocate(options_.compute, {n, h});
  for (const auto& layer : layers_) {
    slot->layers.push_back(layer->Allocate(arena, options_.tokens));
  }
  slot->x_out = arena.Allocate(options_.compute, {n, h});
  if (last()) {
    slot->normed = arena.Allocate(options_.compute, {n, h});
    slot->norm = final_norm_->AllocateStatistics(arena, n);
    slot->dnormed = arena.Allocate(DType::kF32, {n, h});
  }
  slot->dx = arena.Allocate(options_.compute, {n, h});
}

StageMemory DecoderStage::Memory() const {
  StageMemory memory{};
  const int64_t n = options_.tokens.tokens(), h = options_.shape.hidden_size;
  Arena arena = Arena::Measuring();
  Slot slot;
  Allocate(arena, &slot);
  memory.per_live_microbatch = arena.used_bytes_max();
  for (const auto& layer : layers_) {
    memory.scratch = std::max(memory.scratch, layer->ScratchBytes(options_.tokens, false));
    memory.deferred_per_microbatch += layer->ScratchBytes(options_.tokens, true);
  }
  if (first()) memory.scratch = std::max(memory.scratch, embedding_->ScratchBytes(n));
  if (last()) memory.scratch = std::max(memory.scratch, classifier_->ScratchBytes(n));
  memory.scratch += Arena::RoundUp(n * h * ByteSize(DType::kF32)) +
                    Arena::RoundUp(n * h * ByteSize(options_.compute));
  return memory;
}

void DecoderStage::Reserve(int live_microbatches) {
  const int64_t n = options_.tokens.tokens(), h = options_.shape.hidden_size;
  const StageMemory memory = Memory();
  if (slots_.empty()) {
    const int64_t delta_bytes = Arena::RoundUp(n * h * ByteSize(DType::kF32));
    const int64_t running_bytes = Arena::RoundUp(n * h * ByteSize(options_.compute));
    running_memory_ = Buffer(delta_bytes + running_bytes);
    const DType delta_dtype = context_.tensor.size() == 1 ? options_.compute : DType::kF32;
    delta_ = Tensor(running_memory_.data(), delta_dtype, {n, h});
    running_ = Tensor(running_memory_.data() + delta_bytes, options_.compute, {n, h});
    context_.scratch = Arena(memory.scratch - delta_bytes - running_bytes);
  }
  while (static_cast<int>(slots_.size()) < live_microbatches) {
    auto slot = std::make_unique<Slot>();
    slot->arena = Arena(memory.per_live_microbatch);
    Allocate(slot->arena, slot.get());
    slots_.push_back(std::move(slot));
  }
}

DecoderStage::Slot& DecoderStage::SlotOf(MicrobatchId microbatch) {
  for (auto& slot : slots_) {
    if (slot->microbatch == microbatch) return *slot;
  }
  LOG(FATAL) << "microbatch " << microbatch << " is not live";
  __builtin_unreachable();
}

DecoderStage::Slot& DecoderStage::FreeSlot(MicrobatchId microbatch) {
  for (auto& slot : slots_) {
    if (slot->microbatch >= 0) continue;
    slot->microbatch = microbatch;
    return *slot;
  }
  LOG(FATAL) << "more than the " << slots_.size() << " reserved microbatches are live";
  __builtin_unreachable();
}

Carry DecoderStage::Forward(MicrobatchId microbatch, const Carry& input) {
  if (slots_.empty()) Reserve(1);
  const Microbatch& data = source_(microbatch);
  Slot& slot = FreeSlot(microbatch);
  Tensor x;
  if (first()) {
    x = slot.embedded;
    embedding_->Forward(data.ids.View({options_.tokens.tokens()}), data.places, x);
  } else {
    CHECK_EQ(input.items.size(), 1u);
    x = input.items[0].tensor;
  }
  bool has_delta = false;
  for (size_t i = 0; i < layers_.size(); ++i) {
    // Without a backward pass one layer's memory serves all.
    DecoderLayer::Saved one = slot.layers[0];
    DecoderLayer::Saved* saved = evaluation_ ? &one : &slot.layers[i];
    x = layers_[i]->Forward(options_.tokens, data.places, x, has_delta, delta_, running_, saved);
    has_delta = true;
  }
  Carry output;
  if (last()) {
    ForwardHead(data, x, has_delta, &slot);
  } else {
    Add(*context_.stream, x, delta_, slot.x_out);
    output.items.push_back({"hidden", slot.x_out});
  }
  if (evaluation_) slot.microbatch = -1;
  return output;
}

void DecoderStage::ForwardHead(const Microbatch& data, const Tensor& x, bool has_delta,
                               Slot* slot) {
  if (!has_delta) context_.stream->Copy(slot->x_out.data(), x.data(), x.bytes());
  final_norm_->Forward(x, has_delta ? delta_ : Tensor(), slot->x_out, slot->normed, slot->norm);
  const Tensor labels = data.labels.View({options_.tokens.tokens()});
  losses_[slot->microbatch] = evaluation_
                                  ? classifier_->Evaluate(slot->normed, labels, Tensor())
                                  : classifier_->Train(slot->normed, labels, data.gradient_scale,
                                                       slot->dnormed, slot->microbatch);
}

Carry DecoderStage::BackwardInput(MicrobatchId microbatch, const Carry& output_gradient,
                                  WeightGradients when) {
  Slot& slot = SlotOf(microbatch);
  const Microbatch& data = source_(microbatch);
  const bool deferred = when == WeightGradients::kLater;
  if (deferred && slot.deferred.capacity_bytes() == 0) {
    slot.deferred = Arena(Memory().deferred_per_microbatch);
  }
  slot.work = WeightWork(deferred);
  Tensor dx = slot.dx;
  if (last()) {
    final_norm_->Backward(slot.dnormed, slot.x_out, slot.norm, Tensor(), dx, microbatch);
  } else {
    CHECK_EQ(output_gradient.items.size(), 1u);
    context_.stream->Copy(dx.data(), output_gradient.items[0].tensor.data(), dx.bytes());
  }
  Arena& keep = deferred ? slot.deferred : context_.scratch;
  for (size_t i = layers_.size(); i-- > 0;) {
    dx = layers_[i]->Backward(options_.tokens, data.places, dx, slot.layers[i], delta_, keep,
                              microbatch, &slot.work);
  }
  Carry input_gradient;
  if (first()) {
    embedding_->Backward(data.ids.View({options_.tokens.tokens()}), data.places, dx, microbatch);
  } else {
    input_gradient.items.push_back({"hidden", dx});
  }
  if (!deferred) slot.microbatch = -1;
  return input_gradient;
}

void DecoderStage::BackwardWeight(MicrobatchId microbatch) {
  Slot& slot = SlotOf(microbatch);
  slot.work.Run(microbatch);
  slot.deferred.Release(0);
  slot.microbatch = -1;
}

std::map<MicrobatchId, double> DecoderStage::TakeLosses() { return std::exchange(losses_, {}); }

}  // namespace trireme
