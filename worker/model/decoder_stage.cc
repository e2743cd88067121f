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
  Tensor dnormed;  // [N, H]: made with the loss
  Tensor dx;       // [N, H]: the gradient on its way down the layers
  Arena deferred;  // operands of weight gradients that come later
  WeightWork work{false};
};

DecoderStage::DecoderStage(const StageOptions& options, const std::vector<ParameterSpec>& specs,
                           Stream* stream, ParameterStore* parameters, TensorGroup tensor,
                           MicrobatchSource source)
    : options_(options), source_(std::move(source)) {
  context_.stream = stream;
  context_.parameters = parameters;
  context_.tensor = std::move(tensor);
  context_.compute = options.compute;
  context_.device = options.device.value_or(stream->device());
  blocks_ = DecoderBlocks::Build(&context_, options.shape, specs, options.mesh, options.rank,
                                 options.recompute, options.tokens.length);
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
  for (const auto& layer : blocks_.layers) {
    slot->layers.push_back(layer->Allocate(arena, options_.tokens));
  }
  slot->x_out = arena.Allocate(options_.compute, {n, h});
  if (last()) {
    slot->normed = arena.Allocate(options_.compute, {n, h});
    slot->norm = blocks_.final_norm->AllocateStatistics(arena, n);
    slot->dnormed = arena.Allocate(blocks_.classifier->GradientDType(), {n, h});
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
  for (const auto& layer : blocks_.layers) {
    memory.scratch = std::max(memory.scratch, layer->ScratchBytes(options_.tokens, false));
    memory.deferred_per_microbatch += layer->ScratchBytes(options_.tokens, true);
  }
  if (first()) memory.scratch = std::max(memory.scratch, blocks_.embedding->ScratchBytes(n));
  if (last()) memory.scratch = std::max(memory.scratch, blocks_.classifier->ScratchBytes(n));
  memory.scratch += Arena::RoundUp(n * h * ByteSize(DType::kF32)) +
                    Arena::RoundUp(n * h * ByteSize(options_.compute));
  return memory;
}

void DecoderStage::Reserve(int live_microbatches) {
  const int64_t n = options_.tokens.tokens(), h = options_.shape.hidden_size;
  const StageMemory memory = Memory();
  const DeviceKind device = context_.stream->device();
  if (slots_.empty()) {
    const int64_t delta_bytes = Arena::RoundUp(n * h * ByteSize(DType::kF32));
    const int64_t running_bytes = Arena::RoundUp(n * h * ByteSize(options_.compute));
    running_memory_ = Buffer(delta_bytes + running_bytes, device);
    const DType delta_dtype = context_.tensor.size() == 1 ? options_.compute : DType::kF32;
    delta_ = Tensor(running_memory_.data(), delta_dtype, {n, h});
    running_ = Tensor(running_memory_.data() + delta_bytes, options_.compute, {n, h});
    context_.scratch = Arena(memory.scratch - delta_bytes - running_bytes, device);
  }
  while (static_cast<int>(slots_.size()) < live_microbatches) {
    auto slot = std::make_unique<Slot>();
    slot->arena = Arena(memory.per_live_microbatch, device, "activations");
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
    blocks_.embedding->Forward(data.ids.View({options_.tokens.tokens()}), data.places, x);
  } else {
    CHECK_EQ(input.items.size(), 1u);
    x = input.items[0].tensor;
  }
  bool has_delta = false;
  for (size_t i = 0; i < blocks_.layers.size(); ++i) {
    // Without a backward pass one layer's memory serves all: the last one's, since the first may
    // still point at an input of training, whose memory is in other use by now.
    DecoderLayer::Saved one = slot.layers.back();
    DecoderLayer::Saved* saved = evaluation_ ? &one : &slot.layers[i];
    x = blocks_.layers[i]->Forward(options_.tokens, data.places, x, has_delta, delta_, running_,
                                   saved);
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
  blocks_.final_norm->Forward(x, has_delta ? delta_ : Tensor(), slot->x_out, slot->normed,
                              slot->norm);
  const Tensor labels = data.labels.View({options_.tokens.tokens()});
  double* parts = LossPartsOf(slot->microbatch);
  if (evaluation_) {
    blocks_.classifier->Evaluate(slot->normed, labels, Tensor(), parts);
  } else {
    blocks_.classifier->Train(slot->normed, labels, data.gradient_scale, slot->dnormed,
                              slot->microbatch, parts);
  }
}

void DecoderStage::ReserveLosses(int microbatches) {
  CHECK_EQ(loss_parts_.bytes(), 0);
  losses_on_device_ = std::max(losses_on_device_, microbatches);
}

double* DecoderStage::LossPartsOf(MicrobatchId microbatch) {
  if (static_cast<int>(microbatch_of_parts_.size()) == losses_on_device_) ReadLosses();
  const int64_t parts = blocks_.classifier->LossParts(options_.tokens.tokens());
  if (loss_parts_.bytes() == 0) {
    loss_parts_ = Buffer(losses_on_device_ * parts * ByteSize(DType::kF64),
                         context_.stream->device(), "losses");
  }
  microbatch_of_parts_.push_back(microbatch);
  return reinterpret_cast<double*>(loss_parts_.data()) +
         static_cast<int64_t>(microbatch_of_parts_.size() - 1) * parts;
}

// The only wait for the device that a loss costs: once for all microbatches of a step.
void DecoderStage::ReadLosses() {
  if (microbatch_of_parts_.empty()) return;
  const int64_t parts = blocks_.classifier->LossParts(options_.tokens.tokens());
  std::vector<double> values(microbatch_of_parts_.size() * parts);
  context_.stream->Copy(values.data(), loss_parts_.data(),
                        static_cast<int64_t>(values.size() * sizeof(double)));
  context_.stream->Synchronize();
  for (size_t i = 0; i < microbatch_of_parts_.size(); ++i) {
    double loss = 0;
    for (int64_t k = 0; k < parts; ++k) loss += values[i * parts + k];
    losses_[microbatch_of_parts_[i]] = loss;
  }
  microbatch_of_parts_.clear();
}

Carry DecoderStage::BackwardInput(MicrobatchId microbatch, const Carry& output_gradient,
                                  WeightGradients when) {
  Slot& slot = SlotOf(microbatch);
  const Microbatch& data = source_(microbatch);
  const bool deferred = when == WeightGradients::kLater;
  if (deferred && slot.deferred.capacity_bytes() == 0) {
    slot.deferred =
        Arena(Memory().deferred_per_microbatch, context_.stream->device(), "activations");
  }
  slot.work = WeightWork(deferred);
  Tensor dx = slot.dx;
  if (last()) {
    blocks_.final_norm->Backward(slot.dnormed, slot.x_out, slot.norm, Tensor(), dx, microbatch);
  } else {
    CHECK_EQ(output_gradient.items.size(), 1u);
    context_.stream->Copy(dx.data(), output_gradient.items[0].tensor.data(), dx.bytes());
  }
  Arena& keep = deferred ? slot.deferred : context_.scratch;
  for (size_t i = blocks_.layers.size(); i-- > 0;) {
    dx = blocks_.layers[i]->Backward(options_.tokens, data.places, dx, slot.layers[i], delta_, keep,
                                     microbatch, &slot.work);
  }
  Carry input_gradient;
  if (first()) {
    blocks_.embedding->Backward(data.ids.View({options_.tokens.tokens()}), data.places, dx,
                                microbatch);
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

void DecoderStage::Forget(MicrobatchId microbatch) {
  for (auto& slot : slots_) {
    if (slot->microbatch != microbatch) continue;
    slot->work = WeightWork(false);
    if (slot->deferred.capacity_bytes() > 0) slot->deferred.Release(0);
    slot->microbatch = -1;
  }
}

std::map<MicrobatchId, double> DecoderStage::TakeLosses() {
  ReadLosses();
  return std::exchange(losses_, {});
}

}  // namespace trireme
