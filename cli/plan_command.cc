// trireme plan: layout, memory a rank, idle share, bytes on the wires and time a step, before a
// worker is started.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>

#include "cli/command.h"
#include "cli/config_loader.h"
#include "cli/machine_file.h"
#include "cli/plan_facts.h"
#include "cli/plan_roofline.h"
#include "cli/run_options.h"
#include "cli/training_run.h"
#include "cluster/base/json.h"
#include "parallelism/planner.h"
#include "proto/config.pb.h"
#include "worker/model/model_shape.h"

namespace trireme {
namespace {

struct PlanOptions {
  RunFileOptions file;
  int workers = 0;  // 0: as the layout says
  int hosts = 1;
  double tflops = 0;
  double wire_gbits = 16;
  double memory_gib = 0;
  std::string machine;
  bool json = false;
};

// What --machine adds to a plan.
struct Expectation {
  MachineFile machine;
  Roofline roofline;
  double tokens_per_second = 0;
  double mfu = 0;
  double roofline_tokens_per_second = 0;  // all workers' kernels at their rooflines, nothing else
};

std::string Text(double value, const char* format) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

// In MiB, or in KiB what would be nothing there.
std::string MiB(int64_t bytes) {
  const double kib = static_cast<double>(bytes) / 1024;
  return kib > 0 && kib < 100 ? Text(kib, "%.1f KiB") : Text(kib / 1024, "%.1f MiB");
}

// 12,345,678.
std::string Thousands(int64_t value) {
  std::string text = StrCat(value);
  for (int at = static_cast<int>(text.size()) - 3; at > 0; at -= 3) text.insert(at, ",");
  return text;
}

std::string LayoutText(const PlanRequest& layout) {
  return StrCat("data ", layout.data, " x tensor ", layout.tensor, " x pipeline ", layout.pipeline);
}

std::string Padded(const std::string& text, size_t width, bool right) {
  const std::string space(width > text.size() ? width - text.size() : 0, ' ');
  return right ? space + text : text + space;
}

void PrintTable(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths(rows[0].size(), 0);
  for (const auto& row : rows) {
    for (size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());
  }
  for (const auto& row : rows) {
    std::string line = " ";
    for (size_t c = 0; c < row.size(); ++c) line += " " + Padded(row[c], widths[c] + 1, c > 0);
    std::cout << line << "\n";
  }
}

void PrintStages(const Plan& plan) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> head = {"rank of stage"}, layers = {"layers"}, held = {"parameters"},
                           updated = {"of them updated"}, live = {"microbatches alive"};
  std::vector<std::string> names;
  for (const StagePlan& stage : plan.stages) {
    head.push_back(StrCat(stage.stage));
    layers.push_back(StrCat(stage.layers_begin, "-", stage.layers_end - 1));
    held.push_back(Thousands(stage.parameters));
    updated.push_back(Thousands(stage.updated_parameters));
    live.push_back(StrCat(stage.live_microbatches));
    for (const MemoryItem& item : stage.memory) {
      if (std::find(names.begin(), names.end(), item.what) == names.end()) {
        names.push_back(item.what);
      }
    }
  }
  rows = {head, layers, held, updated, live};
  for (const std::string& name : names) {
    std::vector<std::string> row = {name};
    for (const StagePlan& stage : plan.stages) {
      int64_t bytes = 0;
      for (const MemoryItem& item : stage.memory) bytes += item.what == name ? item.bytes : 0;
      row.push_back(MiB(bytes));
    }
    rows.push_back(row);
  }
  std::vector<std::string> total = {"memory"};
  for (const StagePlan& stage : plan.stages) total.push_back(MiB(stage.memory_bytes));
  rows.push_back(total);
  PrintTable(rows);
}

void PrintPlan(const Plan& plan, const MachineFacts& machine) {
  const PlanRequest& layout = plan.layout;
  std::cout << "layout        " << LayoutText(layout) << " = " << plan.workers
            << (plan.workers == 1 ? " worker" : " workers") << ", zero " << layout.zero_level
            << ", " << layout.schedule << "\n"
            << "batch         " << layout.microbatches << " microbatches, " << layout.leaves
            << " leaves, " << Thousands(layout.tokens) << " tokens a step\n"
            << "parameters    " << Thousands(plan.parameters) << "\n\n";
  PrintStages(plan);
  std::cout << "\n"
            << "idle          " << Text(100 * plan.bubble_share, "%.1f %%")
            << " of the pipeline's time\n"
            << "wires         " << MiB(plan.wires.total()) << " a step from the busiest rank: "
            << "gradients " << MiB(plan.wires.gradients) << ", weights " << MiB(plan.wires.weights)
            << ", activations " << MiB(plan.wires.activations) << ", tensor sums "
            << MiB(plan.wires.tensor) << "\n";
  if (plan.step_seconds > 0) {
    std::cout << "step          " << Text(plan.step_seconds * 1e3, "%.0f ms") << ", "
              << Thousands(
                     static_cast<int64_t>(static_cast<double>(layout.tokens) / plan.step_seconds))
              << " tokens/s, at " << Text(machine.flop_per_second * 1e-9, "%.1f GFLOP/s")
              << " a worker\n";
  }
  std::cout << "memory        " << MiB(plan.memory_bytes_max) << " a worker, "
            << MiB(machine.memory_bytes) << " are there\n";
  for (const std::string& note : plan.notes) std::cout << "note          " << note << "\n";
}

const char* KindText(KernelEstimate::Kind kind) {
  switch (kind) {
    case KernelEstimate::Kind::kProduct:
      return "product";
    case KernelEstimate::Kind::kAttentionForward:
    case KernelEstimate::Kind::kAttentionBackward:
      return "attention";
    default:
      return "memory";
  }
}

void PrintExpectation(const Expectation& expectation) {
  const Roofline& roofline = expectation.roofline;
  std::cout << "\nkernels of a step of one worker, on " << expectation.machine.name << "\n";
  std::vector<std::vector<std::string>> rows = {
      {"kernel", "calls", "GB", "TFLOP", "roofline ms", "expected ms", "share"}};
  for (const KernelEstimate& kernel : roofline.kernels) {
    rows.push_back({kernel.name, StrCat(kernel.calls), Text(kernel.bytes * 1e-9, "%.2f"),
                    Text(kernel.flop * 1e-12, "%.3f"), Text(kernel.roofline_seconds * 1e3, "%.3f"),
                    Text(kernel.expected_seconds * 1e3, "%.3f"),
                    Text(100 * kernel.expected_seconds / roofline.expected_seconds, "%.1f %%")});
  }
  rows.push_back({"all", "", "", "", Text(roofline.roofline_seconds * 1e3, "%.3f"),
                  Text(roofline.expected_seconds * 1e3, "%.3f"), ""});
  PrintTable(rows);
  std::cout << "expected      " << Thousands(static_cast<int64_t>(expectation.tokens_per_second))
            << " tokens/s, MFU " << Text(100 * expectation.mfu, "%.1f %%") << " (6N + 6LCT); "
            << Thousands(static_cast<int64_t>(expectation.roofline_tokens_per_second))
            << " tokens/s if every kernel ran at its roofline\n";
}

Json ExpectationJson(const Expectation& expectation) {
  Json kernels = Json::array();
  for (const KernelEstimate& kernel : expectation.roofline.kernels) {
    kernels.push_back({{"kernel", kernel.name},
                       {"kind", KindText(kernel.kind)},
                       {"calls", kernel.calls},
                       {"bytes", kernel.bytes},
                       {"flop", kernel.flop},
                       {"roofline_seconds", kernel.roofline_seconds},
                       {"expected_seconds", kernel.expected_seconds}});
  }
  return {{"name", expectation.machine.name},
          {"kernels", kernels},
          {"roofline_seconds", expectation.roofline.roofline_seconds},
          {"expected_seconds", expectation.roofline.expected_seconds},
          {"tokens_per_second", expectation.tokens_per_second},
          {"roofline_tokens_per_second", expectation.roofline_tokens_per_second},
          {"mfu", expectation.mfu},
          {"mfu_formula", "6N + 6LCT"}};
}

void PrintOthers(const std::vector<Plan>& plans) {
  if (plans.size() < 2) return;
  std::cout << "\nother layouts of " << plans[0].workers << " workers\n";
  std::vector<std::vector<std::string>> rows = {{"layout", "ms a step", "MiB a worker", "idle"}};
  for (size_t i = 1; i < std::min<size_t>(plans.size(), 8); ++i) {
    const double seconds = plans[i].step_seconds;
    rows.push_back({LayoutText(plans[i].layout), seconds > 0 ? Text(seconds * 1e3, "%.0f") : "-",
                    StrCat(plans[i].memory_bytes_max >> 20),
                    Text(100 * plans[i].bubble_share, "%.1f %%")});
    if (!plans[i].fits) rows.back()[2] += " (too much)";
  }
  PrintTable(rows);
}

Json LayoutJson(const PlanRequest& layout) {
  return {{"data", layout.data},         {"tensor", layout.tensor},
          {"pipeline", layout.pipeline}, {"context", layout.context},
          {"zero", layout.zero_level},   {"pipeline_schedule", layout.schedule}};
}

// Of a plan that does not fit no time is known: nothing was measured for it.
Json KnownOrNull(double value) { return value > 0 ? Json(value) : Json(nullptr); }

Json PlanJson(const Plan& plan, const MachineFacts& machine) {
  Json stages = Json::array();
  for (const StagePlan& stage : plan.stages) {
    Json memory = Json::object();
    for (const MemoryItem& item : stage.memory) memory[item.what] = item.bytes;
    stages.push_back({{"stage", stage.stage},
                      {"layers", {stage.layers_begin, stage.layers_end}},
                      {"parameters", stage.parameters},
                      {"updated_parameters", stage.updated_parameters},
                      {"live_microbatches", stage.live_microbatches},
                      {"accumulators", stage.accumulators},
                      {"memory", memory},
                      {"memory_bytes", stage.memory_bytes}});
  }
  return {{"layout", LayoutJson(plan.layout)},
          {"workers", plan.workers},
          {"microbatches", plan.layout.microbatches},
          {"sum_leaves", plan.layout.leaves},
          {"tokens_per_step", plan.layout.tokens},
          {"parameters", plan.parameters},
          {"stages", stages},
          {"memory_bytes_max", plan.memory_bytes_max},
          {"memory_bytes_available", machine.memory_bytes},
          {"fits", plan.fits},
          {"bubble_share", plan.bubble_share},
          {"wire_bytes",
           {{"gradients", plan.wires.gradients},
            {"weights", plan.wires.weights},
            {"activations", plan.wires.activations},
            {"tensor", plan.wires.tensor},
            {"total", plan.wires.total()}}},
          {"flop_per_second", KnownOrNull(machine.flop_per_second)},
          {"step_seconds", KnownOrNull(plan.step_seconds)},
          {"tokens_per_second",
           KnownOrNull(plan.step_seconds > 0
                           ? static_cast<double>(plan.layout.tokens) / plan.step_seconds
                           : 0)},
          {"notes", plan.notes}};
}

// The run laid out in another way: all defaults filled in again, or why it cannot be.
Result<std::shared_ptr<proto::Config>> WithLayout(const proto::Config& written,
                                                  const PlanRequest& layout) {
  auto config = std::make_shared<proto::Config>(written);
  config->mutable_layout()->set_data(layout.data);
  config->mutable_layout()->set_tensor(layout.tensor);
  config->mutable_layout()->set_pipeline(layout.pipeline);
  RETURN_IF_ERROR(FillDefaults(config.get()));
  RETURN_IF_ERROR(ValidateConfig(*config));
  return config;
}

// Layouts of `workers` for this run, best first.
Result<std::vector<Plan>> Replan(const PlanOptions& options, const proto::Config& filled,
                                 const MachineFacts& machine) {
  // What was written, with the model that it means: the sums' leaves may be auto again.
  proto::Config written = filled;
  ASSIGN_OR_RETURN(const auto loaded, LoadConfig(options.file.path, options.file.overrides));
  written.mutable_batch()->set_sum_leaves(loaded->batch().sum_leaves());
  std::string reason = "no way to cut it";
  const auto facts = [&](const PlanRequest& layout) -> Result<ModelFacts> {
    const auto config = WithLayout(written, layout);
    if (!config.ok()) {
      reason = config.status().message();
      return config.status();
    }
    return ModelFactsOf(**config);
  };
  const int microbatches = PlanRequestOf(filled).microbatches;
  const auto leaves = [&](int data) {
    const std::string& text = written.batch().sum_leaves();
    if (!text.empty() && text != "auto") return std::stoi(text);
    return static_cast<int>(ResolveSumLeaves(microbatches, data));
  };
  std::vector<Plan> plans =
      MakePlans(PlanRequestOf(filled), options.workers, facts, leaves, machine);
  if (plans.empty()) {
    return InvalidArgumentError(StrCat("--workers ", options.workers,
                                       ": no layout of the run has so many workers (", reason,
                                       ")"));
  }
  return plans;
}

Result<Expectation> Expect(const proto::Config& config, const MachineFile& machine,
                           const Plan& plan) {
  ASSIGN_OR_RETURN(const auto laid_out, WithLayout(config, plan.layout));
  Expectation expectation{machine, EstimateKernels(*laid_out, machine)};
  const double tokens = static_cast<double>(plan.layout.tokens);
  const double peak = machine.peak_flop.at(plan.layout.types.compute) * plan.workers;
  const double flop_per_token = TrainingFlopPerToken(
      ModelShape::From(laid_out->model()), plan.parameters, laid_out->data().sequence_length());
  expectation.tokens_per_second = tokens / plan.step_seconds;
  expectation.mfu = expectation.tokens_per_second * flop_per_token / peak;
  expectation.roofline_tokens_per_second = tokens / expectation.roofline.roofline_seconds;
  return expectation;
}

// Layouts of the run on this machine, best first.
Result<std::vector<Plan>> LayOut(const PlanOptions& options, const proto::Config& config,
                                 const MachineFacts& machine) {
  if (options.workers > 0 && options.workers != WorkerCount(config)) {
    return Replan(options, config, machine);
  }
  ASSIGN_OR_RETURN(Plan plan, MakePlan(PlanRequestOf(config), ModelFactsOf(config), machine));
  return std::vector<Plan>{std::move(plan)};
}

MachineQuestion QuestionOf(const PlanOptions& options, const proto::Config& config) {
  const int64_t workers = options.workers > 0 ? options.workers : WorkerCount(config);
  MachineQuestion question;
  question.workers_on_host = static_cast<int>((workers + options.hosts - 1) / options.hosts);
  question.flop_per_second = options.tflops * 1e12;
  question.wire_bytes_per_second = options.wire_gbits * 1e9 / 8;
  question.memory_bytes = static_cast<int64_t>(options.memory_gib * (int64_t{1} << 30));
  return question;
}

void PrintPlans(const PlanOptions& options, const std::vector<Plan>& plans,
                const MachineFacts& machine, const std::optional<Expectation>& expectation) {
  if (!options.json) {
    PrintPlan(plans[0], machine);
    if (expectation) PrintExpectation(*expectation);
    PrintOthers(plans);
    return;
  }
  Json json = PlanJson(plans[0], machine);
  if (expectation) json["machine"] = ExpectationJson(*expectation);
  json["other_layouts"] = Json::array();
  for (size_t i = 1; i < plans.size(); ++i) {
    json["other_layouts"].push_back({{"layout", LayoutJson(plans[i].layout)},
                                     {"memory_bytes_max", plans[i].memory_bytes_max},
                                     {"fits", plans[i].fits},
                                     {"bubble_share", plans[i].bubble_share},
                                     {"step_seconds", KnownOrNull(plans[i].step_seconds)}});
  }
  std::cout << DumpJson(json) << "\n";
}

Status CheckHosts(const PlanOptions& options, const proto::Config& config) {
  const int64_t workers = options.workers > 0 ? options.workers : WorkerCount(config);
  if (options.hosts <= workers) return OkStatus();
  return InvalidArgumentError(StrCat("--hosts ", options.hosts, ": expected at most the ", workers,
                                     workers == 1 ? " worker" : " workers", " that they share"));
}

Status RunPlan(const PlanOptions& options) {
  ASSIGN_OR_RETURN(const auto config, LoadFilledConfig(options.file));
  RETURN_IF_ERROR(CheckHosts(options, *config));
  const MachineQuestion question = QuestionOf(options, *config);
  MachineFacts machine;
  MachineFile described;
  if (options.machine.empty()) {
    machine = MachineLimits(question);
  } else {
    ASSIGN_OR_RETURN(described, ReadMachineFile(options.machine));
    config->set_device("cuda");  // what such files describe
    machine = FactsOf(described, EstimateKernels(*config, described), ModelFactsOf(*config),
                      PlanRequestOf(*config), options.hosts);
    if (question.memory_bytes > 0) machine.memory_bytes = question.memory_bytes;
  }
  ASSIGN_OR_RETURN(std::vector<Plan> plans, LayOut(options, *config, machine));
  // What cannot be is told at once, without measuring how fast it would be.
  if (options.machine.empty() && plans[0].fits) {
    if (options.tflops == 0) {
      std::cerr << "trireme plan: measuring matrix products of the model's sizes here\n";
    }
    MeasureMachine(*config, question, &machine);
    ASSIGN_OR_RETURN(plans, LayOut(options, *config, machine));
  }
  std::optional<Expectation> expectation;
  if (!options.machine.empty()) {
    ASSIGN_OR_RETURN(expectation, Expect(*config, described, plans[0]));
  }
  PrintPlans(options, plans, machine, expectation);
  if (plans[0].fits) return OkStatus();
  return InvalidArgumentError(StrCat("layout: ", LayoutText(plans[0].layout), ": a worker needs ",
                                     MiB(plans[0].memory_bytes_max), ": expected at most ",
                                     MiB(machine.memory_bytes)));
}

std::function<Status()> SetUpPlan(CommandLine& line) {
  auto options = std::make_shared<PlanOptions>();
  AddRunFileOptions(line, &options->file, true);
  line.Add("--workers", options->workers,
           "plan for so many workers; the best layout is looked for when the run's own has "
           "another number")
      .Range(1, 4096);
  line.Add("--hosts", options->hosts, "hosts that share the workers, all like this one")
      .Range(1, 4096);
  line.Add("--tflops", options->tflops,
           "TFLOP/s that a worker reaches in training; measured on this machine without it")
      .Positive();
  line.Add("--wire-gbits", options->wire_gbits, "Gbit/s that a worker sends and receives")
      .Positive()
      .ShowDefault();
  line.Add("--memory-gib", options->memory_gib,
           "GiB that a worker may use; this host's free memory without it")
      .Positive();
  line.Add("--machine", options->machine,
           "plan for the machine that this YAML describes (examples/machines/h100.yaml), "
           "with a roofline estimate of every kernel; nothing is measured here");
  AddJsonOption(line, &options->json);
  return [options] { return RunPlan(*options); };
}

const RegisterCommand kPlanCommand({"plan", "layout, memory, bubble, wires and time of a run",
                                    "trireme plan examples/quickstart.yaml --workers 4",
                                    SetUpPlan});

}  // namespace
}  // namespace trireme
