// Runs the toy model on a mesh of threads and hands back everything that must not depend on it.
#pragma once

#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "parallelism/gradient_store.h"
#include "parallelism/pipeline_executor.h"
#include "tests/parallelism/toy_model.h"

namespace trireme::toy {

inline constexpr Micros kTimeout = 60'000'000;

// What a run leaves, in values.
struct Outcome {
  std::vector<double> losses, norms;                // by step
  std::map<std::string, std::vector<float>> state;  // whole tensors
  std::vector<std::string> problems;                // statuses, boxes that do not tile

  friend bool operator==(const Outcome&, const Outcome&) = default;
};

struct RunSetup {
  int data = 1, pipeline = 1, zero = 0;
  std::string schedule = "1f1b";  // gpipe, 1f1b, or "zb": weight passes apart
  DType compute = DType::kF32;
  int microbatches = 16, leaves = 8, steps = 3, first_step = 1;
  const std::map<std::string, std::vector<float>>* resume = nullptr;
  int64_t bucket_bytes = 600;  // several buckets
  std::function<std::unique_ptr<CommunicatorFactory>(std::unique_ptr<CommunicatorFactory>)> wrap;
};

inline void AdamStep(std::span<const UpdateSlice> slices, double norm, int t) {
  const float scale = static_cast<float>(std::min(1.0, 1.0 / (norm + 1e-6)));
  for (const UpdateSlice& s : slices) {
    for (int64_t i = 0; i < s.n; ++i) {
      const float g = s.gradient[i] * scale;
      s.m_next[i] = 0.9f * s.m[i] + 0.1f * g;
      s.v_next[i] = 0.95f * s.v[i] + 0.05f * g * g;
      const float decayed = s.decay ? s.p[i] * 0.99f : s.p[i];
      s.p_next[i] = decayed - 0.01f * s.m_next[i] / (std::sqrt(s.v_next[i]) + 1e-3f) / t;
      if (s.p_compute != nullptr) s.p_compute[i] = ToBFloat16(s.p_next[i]);
    }
  }
}

inline void SumSquares(const NormRange* ranges, int64_t count) {
  for (int64_t r = 0; r < count; ++r) {
    double sum = 0;
    for (int64_t i = 0; i < ranges[r].elements; ++i) {
      sum += double{ranges[r].x[i]} * double{ranges[r].x[i]};
    }
    *ranges[r].sum = sum;
  }
}

// Initial values by global element.
inline void FillInitial(std::vector<StateTensor> state) {
  for (StateTensor& s : state) {
    float* out = s.tensor.as<float>();
    if (s.kind != StateTensor::Kind::kWeight) {
      std::fill_n(out, s.tensor.elements(), 0.0f);
      continue;
    }
    const CounterRng rng(3, RngUse::kInit, static_cast<uint64_t>(s.id));
    std::vector<float> whole(ElementCount(s.shape));
    for (size_t i = 0; i < whole.size(); ++i) whole[i] = 0.3f * rng.Normal(i);
    CopyRegion(s.box, Box::Whole(s.shape), reinterpret_cast<const std::byte*>(whole.data()), s.box,
               s.tensor.bytes_data(), 4);
  }
}

inline void FillFrom(const std::map<std::string, std::vector<float>>& saved,
                     std::vector<StateTensor> state) {
  for (StateTensor& s : state) {
    CopyRegion(s.box, Box::Whole(s.shape),
               reinterpret_cast<const std::byte*>(saved.at(s.name).data()), s.box,
               s.tensor.bytes_data(), 4);
  }
}

// Weight passes moved to the end of each row.
inline Schedule LateWeights(int stages, int microbatches) {
  Schedule schedule = OneForwardOneBackwardSchedule(stages, microbatches);
  for (auto& row : schedule.rows) {
    std::erase_if(row, [](Action a) { return a.kind == ActionKind::kWeight; });
    for (int i = 0; i < microbatches; ++i) row.push_back({ActionKind::kWeight, i});
  }
  return schedule;
}

// Collects what ranks write; whole tensors from boxes.
class Collector {
 public:
  void Add(const std::vector<StateTensor>& state) {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const StateTensor& s : state) {
      std::vector<float>& whole = outcome_.state[s.name];
      whole.resize(ElementCount(s.shape));
      CopyRegion(s.box, s.box, s.tensor.bytes_data(), Box::Whole(s.shape),
                 reinterpret_cast<std::byte*>(whole.data()), 4);
      shapes_[s.name] = s.shape;
      boxes_[s.name].push_back(s.box);
    }
  }
  void Problem(const std::string& text) {
    std::lock_guard<std::mutex> lock(mutex_);
    outcome_.problems.push_back(text);
  }
  // Equal on every rank, or a problem.
  void Step(size_t step, double loss, double norm) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (outcome_.losses.size() <= step) {
      outcome_.losses.push_back(loss);
      outcome_.norms.push_back(norm);
    } else if (outcome_.losses[step] != loss || outcome_.norms[step] != norm) {
      outcome_.problems.push_back("ranks disagree about loss or norm");
    }
  }
  Outcome Finish() {
    for (const auto& [name, boxes] : boxes_) {
      if (!TilesExactly(shapes_[name], boxes)) {
        outcome_.problems.push_back(name + " is not written exactly once");
      }
    }
    return outcome_;
  }

 private:
  std::mutex mutex_;
  Outcome outcome_;
  std::map<std::string, Shape> shapes_;
  std::map<std::string, std::vector<Box>> boxes_;
};

inline Status RunSteps(const RunSetup& setup, ProcessGroups* groups, Collector* collector) {
  Stream stream(1);
  const int stage = groups->Index(Axis::kPipeline);
  StoreOptions options;
  options.zero_level = setup.zero;
  options.types.compute = setup.compute;
  options.microbatches = setup.microbatches;
  options.leaves = setup.leaves;
  options.bucket_bytes = setup.bucket_bytes;
  ShardedParameterStore store(Specs(setup.pipeline), groups, &stream, options);
  Model model(&store, stage, setup.pipeline);
  if (setup.resume != nullptr) {
    FillFrom(*setup.resume, store.StateToLoad());
  } else {
    FillInitial(store.StateToLoad());
  }
  RETURN_IF_ERROR(store.FinishLoad(setup.first_step - 1, kTimeout));
  const int count = static_cast<int>(store.microbatches().size());
  Schedule schedule = setup.schedule == "zb" ? LateWeights(setup.pipeline, count)
                                             : *MakeSchedule(setup.schedule, setup.pipeline, count);
  RETURN_IF_ERROR(ValidateSchedule(schedule));
  PipelineOptions pipeline;
  pipeline.pipeline = groups->Along(Axis::kPipeline);
  pipeline.stream = &stream;
  pipeline.timeout = kTimeout;
  PipelineExecutor executor(schedule, stage, pipeline);
  for (int step = setup.first_step; step <= setup.steps; ++step) {
    model.set_step(step);
    store.BeginStep();
    RETURN_IF_ERROR(executor.RunStep(model, store.microbatches()));
    RETURN_IF_ERROR(store.FinishReduction(kTimeout));
    ASSIGN_OR_RETURN(const double norm, store.GlobalNorm(SumSquares, kTimeout));
    ASSIGN_OR_RETURN(const BatchLoss loss,
                     SumLosses(groups->World(), setup.microbatches, model.TakeLosses(), kTimeout));
    RETURN_IF_ERROR(store.Update(
        [&](std::span<const UpdateSlice> slices) { AdamStep(slices, norm, step); }, kTimeout));
    store.Commit(step);
    collector->Step(step - setup.first_step, loss.Mean(), norm);
    if (model.live() != 0) collector->Problem("microbatches left alive");
  }
  collector->Add(store.StateToSave());
  return OkStatus();
}

// Calls `body` on a thread for each rank of the mesh.
inline void OnMesh(const Mesh& mesh, const decltype(RunSetup::wrap)& wrap,
                   const std::function<void(ProcessGroups*)>& body) {
  std::vector<std::unique_ptr<CommunicatorFactory>> world = ThreadWorld(mesh.size());
  std::vector<std::thread> threads;
  for (int rank = 0; rank < mesh.size(); ++rank) {
    if (wrap) world[rank] = wrap(std::move(world[rank]));
    threads.emplace_back([&, rank] {
      ProcessGroups groups(world[rank].get(), mesh, IdentityHosts(mesh.size()), rank);
      body(&groups);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

inline Outcome RunToy(const RunSetup& setup) {
  Collector collector;
  OnMesh(Mesh(setup.data, 1, setup.pipeline), setup.wrap, [&](ProcessGroups* groups) {
    const Status status = RunSteps(setup, groups, &collector);
    if (!status.ok()) collector.Problem(status.message());
  });
  return collector.Finish();
}

}  // namespace trireme::toy
