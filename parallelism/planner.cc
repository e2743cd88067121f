#include "parallelism/planner.h"

#include <algorithm>
#include <set>

#include "parallelism/leaf_plan.h"
#include "parallelism/parameter_layout.h"

namespace trireme {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// Data indices that stand for all: their leaves and shares of rows take every size there is.
std::vector<int> SampleDataIndices(int data) {
  std::set<int> some = {0, data / 2, data - 1};
  for (int i = 0; i < std::min(data, 8); ++i) some.insert(i);
  return {some.begin(), some.end()};
}

// Microbatches between B and a W of its own, at most.
int PeakDeferred(const std::vector<Action>& row) {
  int now = 0, peak = 0;
  for (size_t c = 0; c < row.size(); ++c) {
    if (row[c].kind == ActionKind::kBackward && !FusedWithNext(row, c))
      peak = std::max(peak, ++now);
    if (row[c].kind == ActionKind::kWeight && !FusedWithNext(row, c - 1)) --now;
  }
  return peak;
}

// What ranks of one stage exchange for tied tensors, packed at the end of the step.
int64_t ExchangeBytes(const std::vector<ParameterSpec>& specs, const ParameterLayout& layout) {
  int64_t elements = 0;
  for (const LocalParameter& local : layout.locals) {
    const ParameterSpec& spec = specs[local.id];
    const bool elsewhere = local.roles.size() < static_cast<size_t>(spec.roles);
    if (elsewhere || spec.replicas_sum) elements += local.updated_elements();
  }
  return elements * 4;
}

class Planner {
 public:
  Planner(const PlanRequest& request, const ModelFacts& model, const MachineFacts& machine)
      : request_(request),
        model_(model),
        machine_(machine),
        mesh_(request.data, request.tensor, request.pipeline, request.context) {}

  Result<Plan> Make() {
    RETURN_IF_ERROR(CheckSumLeaves(request_.microbatches, request_.leaves, request_.data));
    CHECK_EQ(static_cast<int>(model_.stages.size()), request_.pipeline);
    // Data ranks with most microbatches set the pace.
    const SumTree tree = SumTree::Even(request_.leaves, request_.data);
    int leaves_max = 0, leaves_min = request_.leaves;
    for (int rank = 0; rank < request_.data; ++rank) {
      const int held = static_cast<int>(tree.LeavesOf(rank).size());
      leaves_max = std::max(leaves_max, held);
      leaves_min = std::min(leaves_min, held);
    }
    microbatches_ = leaves_max * (request_.microbatches / request_.leaves);
    ASSIGN_OR_RETURN(schedule_, MakeSchedule(request_.schedule, request_.pipeline, microbatches_));

    plan_.layout = request_;
    plan_.workers = mesh_.size();
    for (const ParameterSpec& spec : model_.specs) plan_.parameters += ElementCount(spec.shape);
    for (int stage = 0; stage < request_.pipeline; ++stage) plan_.stages.push_back(Stage(stage));
    for (const StagePlan& stage : plan_.stages) {
      plan_.memory_bytes_max = std::max(plan_.memory_bytes_max, stage.memory_bytes);
    }
    plan_.bubble_share = TimeSchedule(schedule_, Times(1.0, 0)).bubble_share;
    if (machine_.flop_per_second > 0) StepTime();
    plan_.fits = machine_.memory_bytes == 0 || plan_.memory_bytes_max <= machine_.memory_bytes;
    Notes(leaves_min, leaves_max);
    return plan_;
  }

 private:
  StagePlan Stage(int stage) {
    StagePlan most;
    for (int data : SampleDataIndices(request_.data)) {
      for (int tensor : {0, request_.tensor - 1}) {
        StagePlan plan = Rank(mesh_.RankOf({tensor, 0, data, stage}), data, stage);
        if (plan.memory_bytes >= most.memory_bytes) most = std::move(plan);
      }
    }
    return most;
  }

  StagePlan Rank(int rank, int data, int stage) {
    const ParameterLayout layout = MakeParameterLayout(
        model_.specs, mesh_, rank, request_.zero_level, request_.types, request_.bucket_bytes);
    const LeafPlan leaves(request_.microbatches, request_.leaves, request_.data, data);
    const StageCosts& costs = model_.stages[stage];
    StagePlan plan;
    plan.stage = stage;
    plan.layers_begin = costs.layers_begin;
    plan.layers_end = costs.layers_end;
    for (const LocalParameter& local : layout.locals) {
      plan.parameters += local.elements();
      plan.updated_parameters += local.updated_elements();
    }
    plan.accumulators = leaves.accumulators();
    plan.live_microbatches = PeakLiveMicrobatches(schedule_)[stage];
    const int count = static_cast<int>(leaves.microbatches().size());
    const int slabs = std::min(plan.live_microbatches + 1, count);
    const auto add = [&](const char* what, int64_t bytes) {
      if (bytes == 0) return;
      plan.memory.push_back({what, bytes});
      plan.memory_bytes += bytes;
    };
    // Two slots of everything an update writes: what is committed, and what is next.
    add("weights", 2 * (layout.weights_f32 * 4 + layout.weights_bf16 * 2));
    add("master weights", 2 * layout.masters * 4);
    add("optimizer moments", 2 * layout.moments * 8);
    add("gradient accumulators", plan.accumulators * layout.gradients * 4);
    add("activations", plan.live_microbatches * costs.activation_bytes +
                           PeakDeferred(schedule_.rows[stage]) * costs.deferred_bytes);
    add("scratch", costs.scratch_bytes + machine_.operation_bytes);
    const UnconfirmedSends sends = PeakUnconfirmedSends(schedule_)[stage];
    add("communication buffers", slabs * (costs.input_bytes + costs.output_bytes) +
                                     std::max(sends.up, 2) * costs.input_bytes +
                                     std::max(sends.down, 2) * costs.output_bytes +
                                     ExchangeBytes(model_.specs, layout) +
                                     ContributionBytes(layout, leaves));
    add("batch", count * request_.batch_bytes);
    add("program", machine_.program_bytes);
    Wires(layout, leaves, costs, data);
    return plan;
  }

  // Of the largest bucket, this rank's share of each partial sum of the others.
  int64_t ContributionBytes(const ParameterLayout& layout, const LeafPlan& leaves) const {
    if (!machine_.contributions_on_device) return 0;
    int64_t largest = 0;
    for (const GradientBucket& bucket : layout.buckets) {
      largest = std::max(largest, bucket.end - bucket.begin);
    }
    return largest * 4 / request_.data * leaves.partials() * (request_.data - 1);
  }

  // Bytes sent by direct exchange: every partial sum's pieces to their owners, every owned piece to
  // all others.
  void Wires(const ParameterLayout& layout, const LeafPlan& leaves, const StageCosts& costs,
             int data) {
    WirePlan wires;
    int64_t owned = 0, owned_f32 = 0, owned_bf16 = 0, all = 0;
    for (const LocalParameter& local : layout.locals) {
      const RowRange rows = local.owned_by[data];
      const int64_t elements = (rows.end - rows.begin) * local.row_elements;
      const int64_t roles = static_cast<int64_t>(local.roles.size());
      all += local.elements() * roles;
      owned += elements * roles;
      (local.bf16 ? owned_bf16 : owned_f32) += elements;
    }
    const int64_t others = request_.data - 1;
    if (others > 0) {
      wires.gradients = leaves.partials() * (all - owned) * 4;
      if (request_.zero_level == 0) wires.gradients += owned * others * 4;
      if (request_.zero_level > 0) wires.weights = others * (owned_f32 * 4 + owned_bf16 * 2);
    }
    const int64_t count = static_cast<int64_t>(leaves.microbatches().size());
    wires.activations = count * (costs.output_bytes + costs.input_bytes);
    wires.tensor = count * costs.tensor_wire_bytes;
    if (wires.total() >= plan_.wires.total()) plan_.wires = wires;
  }

  // A third of the work is the forward pass; recomputation is part of the backward pass.
  ScheduleCosts Times(double flop_per_second, double transfer) const {
    ScheduleCosts times = ScheduleCosts::Uniform(request_.pipeline);
    times.transfer = transfer;
    for (int s = 0; s < request_.pipeline; ++s) {
      const StageCosts& costs = model_.stages[s];
      double tensor = 0;
      if (machine_.wire_bytes_per_second > 0 && flop_per_second == machine_.flop_per_second) {
        tensor = static_cast<double>(costs.tensor_wire_bytes) / machine_.wire_bytes_per_second;
      }
      times.forward[s] = costs.flop / 3 / flop_per_second + tensor / 2;
      times.backward[s] = (costs.flop / 3 + costs.recomputed_flop) / flop_per_second + tensor / 2;
      times.weight[s] = costs.flop / 3 / flop_per_second;
    }
    return times;
  }

  void StepTime() {
    const double wire = machine_.wire_bytes_per_second;
    const double latency = machine_.wire_seconds;
    int64_t carry = 0, updated = 0;
    double backward_flop = 0;
    for (int s = 0; s < request_.pipeline; ++s) {
      carry = std::max(carry, model_.stages[s].output_bytes);
      updated = std::max(updated, plan_.stages[s].updated_parameters);
      backward_flop = std::max(backward_flop, model_.stages[s].flop * 2 / 3);
    }
    const double transfer = wire > 0 ? latency + static_cast<double>(carry) / wire : 0;
    plan_.compute_seconds =
        TimeSchedule(schedule_, Times(machine_.flop_per_second, transfer)).makespan;
    double exposed = 0;
    if (wire > 0) {
      // Reductions run beside the last microbatch's backward; gathers beside nothing.
      const double hidden = backward_flop / machine_.flop_per_second;
      exposed += std::max(0.0, static_cast<double>(plan_.wires.gradients) / wire - hidden);
      exposed += static_cast<double>(plan_.wires.weights) / wire;
      if (plan_.workers > 1) exposed += 4 * latency;
    }
    if (machine_.memory_bytes_per_second > 0) {
      // Norm and update: gradient twice, weight and two moments read and written.
      exposed += static_cast<double>(updated) * 32 / machine_.memory_bytes_per_second;
    }
    plan_.exposed_seconds = exposed;
    plan_.step_seconds = plan_.compute_seconds + exposed;
  }

  void Notes(int leaves_min, int leaves_max) {
    if (leaves_min != leaves_max) {
      plan_.notes.push_back(StrCat("data ", request_.data, " does not divide ", request_.leaves,
                                   " leaves: some ranks compute ", leaves_max, ", others ",
                                   leaves_min));
    }
    int accumulators = 0;
    int64_t one = 0;
    for (const StagePlan& stage : plan_.stages) {
      accumulators = std::max(accumulators, stage.accumulators);
      for (const MemoryItem& item : stage.memory) {
        if (item.what == "gradient accumulators") {
          one = std::max(one, item.bytes / stage.accumulators);
        }
      }
    }
    // The fewest leaves that this width allows.
    int fewest = request_.leaves;
    while (fewest % 2 == 0 && fewest / 2 >= request_.data) fewest /= 2;
    if (accumulators > 1 && fewest < request_.leaves) {
      int needed = 1;
      for (int data : SampleDataIndices(request_.data)) {
        needed = std::max(
            needed, LeafPlan(request_.microbatches, fewest, request_.data, data).accumulators());
      }
      plan_.notes.push_back(
          StrCat("batch.sum_leaves ", request_.leaves, " takes ", accumulators,
                 " gradient accumulators of ", one / kMiB, " MiB a rank; ", fewest, " would take ",
                 needed, " and save ", (accumulators - needed) * one / kMiB,
                 " MiB (results have the same bits only among runs with the same sum_leaves)"));
    }
    if (!plan_.fits) {
      plan_.notes.push_back(StrCat("does not fit: a rank needs ", plan_.memory_bytes_max / kMiB,
                                   " MiB, ", machine_.memory_bytes / kMiB, " MiB are there"));
    }
  }

  const PlanRequest& request_;
  const ModelFacts& model_;
  const MachineFacts& machine_;
  Mesh mesh_;
  int microbatches_ = 0;  // of the busiest data rank
  Schedule schedule_;
  Plan plan_;
};

}  // namespace

Status CheckWorkers(const PlanRequest& layout, int workers) {
  const int64_t product = int64_t{layout.data} * layout.tensor * layout.pipeline * layout.context;
  if (product == workers) return OkStatus();
  return InvalidArgumentError(StrCat(workers, " workers: expected data ", layout.data, " x tensor ",
                                     layout.tensor, " x pipeline ", layout.pipeline, " x context ",
                                     layout.context, " = ", product));
}

Result<Plan> MakePlan(const PlanRequest& request, const ModelFacts& model,
                      const MachineFacts& machine) {
  return Planner(request, model, machine).Make();
}

std::vector<Plan> MakePlans(
    const PlanRequest& base, int workers,
    const std::function<Result<ModelFacts>(const PlanRequest& layout)>& facts,
    const std::function<int(int data)>& leaves, const MachineFacts& machine) {
  std::vector<Plan> plans;
  for (int tensor = 1; tensor <= workers; ++tensor) {
    for (int pipeline = 1; tensor * pipeline <= workers; ++pipeline) {
      if (workers % (tensor * pipeline) != 0) continue;
      PlanRequest layout = base;
      layout.data = workers / (tensor * pipeline);
      layout.tensor = tensor;
      layout.pipeline = pipeline;
      layout.leaves = leaves(layout.data);
      if (!CheckSumLeaves(layout.microbatches, layout.leaves, layout.data).ok()) continue;
      const Result<ModelFacts> model = facts(layout);
      if (!model.ok()) continue;
      Result<Plan> plan = MakePlan(layout, *model, machine);
      if (plan.ok()) plans.push_back(std::move(plan).value());
    }
  }
  std::stable_sort(plans.begin(), plans.end(), [](const Plan& a, const Plan& b) {
    if (a.fits != b.fits) return a.fits;
    if (a.fits && a.step_seconds != b.step_seconds) return a.step_seconds < b.step_seconds;
    return a.memory_bytes_max < b.memory_bytes_max;
  });
  return plans;
}

}  // namespace trireme
