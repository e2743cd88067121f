// A whole training run on small in-memory batches, on any layout: what fixture and parity tests
// compare. Everything but the data source is the production path.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cluster/comm/communicator.h"
#include "parallelism/gradient_store.h"
#include "worker/model/decoder_stage.h"
#include "worker/optimizer/adamw.h"

namespace trireme {

struct HarnessBatch {
  std::vector<int32_t> ids;     // [B, T]
  std::vector<int32_t> labels;  // [B, T], kNoLabel where there is none
  // [B, T]; empty: a sequence is one document.
  std::vector<int32_t> positions, document_starts;
};

struct HarnessOptions {
  ModelShape shape;
  int data = 1, tensor = 1, pipeline = 1;
  int zero = 0;
  int threads = 1;
  DeviceKind device = DeviceKind::kCpu;  // kCuda: ranks share GPU 0
  bool gpu_each = false;                 // or rank r has GPU r
  // How ranks of GPUs reach each other; StagedWorld when empty. `host` connects them.
  std::function<std::unique_ptr<CommunicatorFactory>(int rank, CommunicatorFactory* host, Stream*)>
      gpu_world;
  int leaves = 1;
  std::string schedule = "1f1b";
  DType compute = DType::kF32;
  DType master = DType::kF32;
  Recompute recompute = Recompute::kNone;
  bool deferred = false;  // weight gradients in passes of their own
  TokenShape tokens{1, 1};
  std::vector<HarnessBatch> microbatches;  // the same every step
  int steps = 1;
  std::function<double(int64_t step)> lr;             // step counts from 1; adamw.lr when empty
  AdamWStep adamw{1e-3, 0.9, 0.95, 1e-8, 0.1, 0, 1};  // t: the harness' to say
  double clip_norm = 1.0;
  bool record = true;  // steps of GPUs as graphs
  // Called by rank `rank`'s thread: phases of its store, and "gradient" before each gradient that
  // its model is done with.
  std::function<void(int rank, const std::string& event)> on_event;
  // Initial values; FillInitialValues with seed 1 when empty.
  std::function<Status(const ParameterSpec&, const Box&, float*)> initial;

  int ranks() const { return data * tensor * pipeline; }
};

// Whole tensors, by name.
using HarnessTensors = std::map<std::string, std::vector<float>>;
// By (step, microbatch).
using HarnessLosses = std::map<std::pair<int, int>, double>;

// What one rank has at the end.
struct HarnessRank {
  Status status;
  std::vector<double> norms;  // by step
  HarnessLosses losses;       // last stages alone
  struct Part {
    std::string name;
    Box box;
    Shape shape;
    std::vector<float> values;
  };
  std::vector<Part> state;      // all that this rank updates, copies too: weights and moments
  int64_t replayed = 0;         // steps, from a recording
  std::vector<Part> gradients;  // reduced gradients of the first step, before clipping
};

// Runs logical rank `rank`; collective over the ranks of the layout. The world rank of logical rank
// r is r + first_world_rank. Runs of one world have generations of their own.
HarnessRank RunHarnessRank(const HarnessOptions& options, CommunicatorFactory* factory, int rank,
                           int first_world_rank = 0, uint64_t generation = 1);

// All ranks as threads of this process. kInternal where ranks do not agree about what they share.
struct HarnessResult {
  Status status;
  std::vector<double> norms;
  int64_t replayed = 0;        // steps of the first rank
  std::vector<double> losses;  // mean over label tokens, by step
  HarnessLosses microbatch_losses;
  HarnessTensors state;
  HarnessTensors gradients;
};
HarnessResult RunHarness(const HarnessOptions& options);

// Puts the parts of a rank into whole tensors.
void Assemble(const std::vector<HarnessRank::Part>& parts, HarnessTensors* whole);
// The parts that do not have the bits of `whole`, by name and box; empty when all have.
std::string DifferingParts(const std::vector<HarnessRank::Part>& parts,
                           const HarnessTensors& whole);

// Losses of a step folded in ascending microbatch id, divided by all label tokens.
double MeanLoss(const HarnessOptions& options, const HarnessLosses& losses, int step);

// Random ids and labels, some without a label.
std::vector<HarnessBatch> RandomBatches(int count, TokenShape tokens, int64_t vocab_size,
                                        uint64_t seed);

}  // namespace trireme
