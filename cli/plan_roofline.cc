#include "cli/plan_roofline.h"

#include <algorithm>
#include <cmath>

#include "cli/plan_facts.h"
#include "proto/config.pb.h"
#include "worker/kernels/attention_parts.h"
#include "worker/training/run_setup.h"

namespace trireme {
namespace {

using Kind = KernelEstimate::Kind;

// T tokens of a microbatch, L length, H hidden, Q and K widths of a rank's query and key heads,
// F and V of a rank's share of the feed-forward and the vocabulary; e bytes an element.
class StepKernels {
 public:
  StepKernels(const proto::Config& config, const MachineFile& machine)
      : config_(config), machine_(machine), request_(PlanRequestOf(config)) {
    shape_ = ModelShape::From(config.model());
    const int64_t tensor = request_.tensor;
    tokens_ = config.batch().microbatch_sequences() * config.data().sequence_length();
    length_ = config.data().sequence_length();
    microbatches_ = (request_.microbatches + request_.data - 1) / request_.data;
    layers_ = 0;
    for (int s = 0; s < request_.pipeline; ++s) {
      const LayerRange range = StageLayers(shape_.layers, request_.pipeline, s);
      layers_ = std::max(layers_, range.end - range.begin);
    }
    hidden_ = shape_.hidden_size;
    queries_ = shape_.heads * shape_.head_dim / tensor;
    keys_ = std::max<int64_t>(1, shape_.kv_heads / tensor) * shape_.head_dim;
    inner_ = shape_.intermediate_size / tensor;
    vocabulary_ = (shape_.vocab_size + tensor - 1) / tensor;
    width_ = static_cast<double>(ByteSize(request_.types.compute));
    const Mesh mesh(request_.data, request_.tensor, request_.pipeline);
    recompute_ = StageOptionsFor(config, mesh, 0).recompute;
  }

  Roofline Make() {
    const bool rotary = shape_.family == ModelFamily::kLlama;
    const double t = static_cast<double>(tokens_);
    const int64_t per_layer = layers_ * microbatches_;
    // Recomputing: a layer's forward pass once more, or only what is between its products.
    const int64_t again = recompute_ == Recompute::kFull ? 2 : 1;
    const int64_t cheap_again = recompute_ == Recompute::kNone ? 1 : 2;
    Memory("embedding forward", microbatches_, 2 * t * Wide(hidden_));
    // The rows of the tokens that are there are added to, in f32.
    const double rows = std::min(t, static_cast<double>(vocabulary_));
    Memory("embedding backward", microbatches_,
           t * Wide(hidden_) + 8 * rows * static_cast<double>(hidden_));
    const double norm = 4 * t * Wide(hidden_);
    Memory("norm forward", 2 * per_layer * cheap_again, norm);
    Product("qkv", queries_ + 2 * keys_, hidden_, per_layer, again);
    if (rotary) Memory("rotary", 2 * per_layer, 2 * t * Wide(queries_ + keys_));
    Attention(per_layer, again);
    Product("attention out", hidden_, queries_, per_layer, again);
    if (rotary) {
      Product("gate and up", 2 * inner_, hidden_, per_layer, again);
      Memory("swiglu forward", per_layer * cheap_again, 3 * t * Wide(inner_));
      Memory("swiglu backward", per_layer, 5 * t * Wide(inner_));
      Product("down", hidden_, inner_, per_layer, again);
    } else {
      Gelu(per_layer, again);
    }
    Memory("norm backward", 2 * per_layer, norm);
    Memory("final norm", microbatches_, 2 * norm);
    if (!rotary) {  // every product of a layer has a bias, whose gradient reads its dy
      Memory("bias gradients", per_layer, t * Wide(queries_ + 2 * keys_ + 2 * hidden_ + inner_));
    }
    Product("head", vocabulary_, hidden_, microbatches_, 1);
    // Logits are read, again from the cache, and overwritten by their gradient.
    Memory("classifier", microbatches_, 2 * t * Wide(vocabulary_));
    Update();
    for (const KernelEstimate& kernel : result_.kernels) {
      result_.roofline_seconds += kernel.roofline_seconds;
      result_.expected_seconds += kernel.expected_seconds;
      if (kernel.kind == Kind::kUpdate) result_.update_seconds += kernel.expected_seconds;
    }
    return result_;
  }

 private:
  double Wide(int64_t elements) const { return static_cast<double>(elements) * width_; }

  void Add(std::string name, Kind kind, int64_t calls, double flop_each, double bytes_each) {
    KernelEstimate kernel{std::move(name), kind, calls};
    kernel.flop = flop_each * static_cast<double>(calls);
    kernel.bytes = bytes_each * static_cast<double>(calls);
    const double peak = machine_.peak_flop.at(request_.types.compute);
    const double moving = kernel.bytes / machine_.memory_bytes_per_second;
    kernel.roofline_seconds = std::max(kernel.flop / peak, moving);
    const double memory = kind == Kind::kUpdate ? machine_.reach_optimizer : machine_.reach_memory;
    kernel.expected_seconds = std::max(kernel.flop / (peak * ReachOf(kind)), moving / memory);
    result_.kernels.push_back(std::move(kernel));
  }

  // The share of the peak of products.
  double ReachOf(Kind kind) const {
    // 0 for heads of up to 64, 1 from 128 on.
    const double wide = std::clamp((static_cast<double>(shape_.head_dim) - 64.0) / 64.0, 0.0, 1.0);
    if (kind == Kind::kAttentionForward) {
      return std::lerp(machine_.reach_attention_forward, machine_.reach_wide_attention_forward,
                       wide);
    }
    if (kind == Kind::kAttentionBackward) {
      return std::lerp(machine_.reach_attention_backward, machine_.reach_wide_attention_backward,
                       wide);
    }
    return machine_.reach_products;
  }

  void Memory(const char* name, int64_t calls, double bytes_each) {
    Add(name, Kind::kMemory, calls, 0, bytes_each);
  }

  // The products around GELU do it in passing where MatMulGelu's epilogue takes them: the activated
  // rows are written beside the sums, and the sums are read beside the gradients.
  void Gelu(int64_t calls, int64_t forwards) {
    const double rows = static_cast<double>(tokens_) * Wide(inner_);
    const bool epilogue = request_.types.compute == DType::kBF16 && inner_ % 8 == 0;
    const double beside = epilogue ? rows : 0;
    Product("up", inner_, hidden_, calls, forwards, {.forward = beside});
    if (!epilogue) Memory("gelu forward", calls * forwards, 2 * rows);
    if (recompute_ == Recompute::kSelective) Memory("gelu again", calls, 2 * rows);
    if (!epilogue) Memory("gelu backward", calls, 3 * rows);
    Product("down", hidden_, inner_, calls, forwards, {.input_gradient = beside});
  }

  struct BytesBeside {  // of a product's own
    double forward = 0, input_gradient = 0;
  };

  // y [T, out] = x [T, in] w [out, in]; dx = dy w; dw += dy x, in f32.
  void Product(const std::string& name, int64_t out, int64_t in, int64_t calls, int64_t forwards,
               const BytesBeside& beside) {
    const double t = static_cast<double>(tokens_);
    const double weights = static_cast<double>(out * in);
    const double flop = 2 * t * weights;
    const double operands = t * Wide(out + in) + weights * width_;
    Add(name + " forward", Kind::kProduct, calls * forwards, flop, operands + beside.forward);
    Add(name + " input gradient", Kind::kProduct, calls, flop, operands + beside.input_gradient);
    Add(name + " weight gradient", Kind::kProduct, calls, flop, t * Wide(out + in) + 8 * weights);
  }

  void Product(const std::string& name, int64_t out, int64_t in, int64_t calls, int64_t forwards) {
    Product(name, out, in, calls, forwards, BytesBeside());
  }

  // Two products of half the square; five, of which one is made again, in the backward pass.
  void Attention(int64_t calls, int64_t forwards) {
    const double t = static_cast<double>(tokens_);
    const double flop = 2 * t * static_cast<double>(length_) * static_cast<double>(queries_);
    Add("attention forward", Kind::kAttentionForward, calls * forwards, flop,
        t * Wide(2 * queries_ + 2 * keys_));
    Add("attention backward", Kind::kAttentionBackward, calls, 2.5 * flop,
        t * Wide(4 * queries_ + 4 * keys_));
    // cuDNN's deterministic backward pass (docs/cuda.md).
    if (request_.types.compute != DType::kBF16) return;
    const int64_t group = queries_ / keys_;
    const auto part = PartThatFits({tokens_ / length_, keys_ / shape_.head_dim}, group, length_,
                                   machine_.memory_bytes);
    if (part) result_.operation_bytes = AttentionWorkspace(*part, group, length_);
  }

  void Update() {
    const ModelFacts model = ModelFactsOf(config_);
    const Result<Plan> plan = MakePlan(request_, model, MachineFacts());
    CHECK(plan.ok()) << plan.status().message();
    int64_t updated = 0;
    for (const StagePlan& stage : plan->stages) {
      updated = std::max(updated, stage.updated_parameters);
    }
    const double n = static_cast<double>(updated);
    Add("gradient norm", Kind::kUpdate, 1, 0, 4 * n);
    // Gradient, weight and two moments are read; the three are written, and the copy of a master
    // that products read.
    const double weight = ByteSize(request_.types.master);
    const double copy = request_.types.master == request_.types.compute ? 0 : width_;
    Add("adamw", Kind::kUpdate, 1, 0, (20 + 2 * weight + copy) * n);
  }

  const proto::Config& config_;
  const MachineFile& machine_;
  const PlanRequest request_;
  ModelShape shape_;
  Recompute recompute_ = Recompute::kNone;
  int64_t tokens_, length_, microbatches_, layers_, hidden_, queries_, keys_, inner_, vocabulary_;
  double width_;
  Roofline result_;
};

}  // namespace

Roofline EstimateKernels(const proto::Config& config, const MachineFile& machine) {
  return StepKernels(config, machine).Make();
}

MachineFacts FactsOf(const MachineFile& machine, const Roofline& roofline, const ModelFacts& model,
                     const PlanRequest& request, int hosts) {
  double flop = 0;  // of a microbatch on the busiest stage, as the planner counts it
  for (const StageCosts& stage : model.stages) {
    flop = std::max(flop, stage.flop + stage.recomputed_flop);
  }
  const double microbatches = static_cast<double>(request.microbatches) / request.data;
  MachineFacts facts;
  facts.flop_per_second =
      flop * microbatches / (roofline.expected_seconds - roofline.update_seconds);
  facts.memory_bytes_per_second = machine.memory_bytes_per_second * machine.reach_optimizer;
  facts.wire_bytes_per_second =
      hosts > 1 ? machine.network_bytes_per_second : machine.link_bytes_per_second;
  facts.wire_seconds = 10e-6;
  facts.program_bytes = machine.program_bytes;
  facts.memory_bytes = machine.memory_bytes;
  facts.operation_bytes = roofline.operation_bytes;
  facts.contributions_on_device = true;
  return facts;
}

}  // namespace trireme
