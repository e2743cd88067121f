// TrainingStep: what a rank computes in a step: passes, reduction, norm, update.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "cluster/device/buffer.h"
#include "cluster/device/graph.h"
#include "parallelism/gradient_store.h"
#include "parallelism/pipeline_executor.h"
#include "parallelism/process_groups.h"
#include "worker/model/decoder_stage.h"
#include "worker/optimizer/step_numbers.h"

namespace trireme {

struct TrainingStepOptions {
  Stream* stream = nullptr;
  const ProcessGroups* groups = nullptr;
  ShardedParameterStore* store = nullptr;
  DecoderStage* stage = nullptr;
  PipelineExecutor* executor = nullptr;
  MicrobatchSource source;  // of the stage
  double clip_norm = 1;     // 0: gradients are not clipped
  Micros timeout = 0;
  std::function<void(const char* phase)> phase;  // may be empty
  // Steps of a GPU are recorded as CUDA graphs where the layout allows it.
  bool record = true;
};

// On a GPU a step is run as it is written once, recorded when it comes again with the same
// addresses (weights live in two places by turns, so there are two recordings), and replayed from
// then on: of a rank that is alone the whole step is one graph; with data parallelism the passes
// are, cut where the reduction of a bucket starts. Ranks of tensor and pipeline groups wait for
// each other within their passes, so theirs are not recorded. Bits are the same.
class TrainingStep {
 public:
  explicit TrainingStep(TrainingStepOptions options);

  // One step over the store's microbatches, which `source` has. `step`: all but gradient_scale. The
  // caller takes the losses from the stage and commits. Returns the norm of the gradients before
  // clipping.
  Result<double> Run(const AdamWStep& step);

  // Steps that were replayed, so far.
  int64_t replayed() const { return replayed_; }

 private:
  bool WholeStepOnDevice() const;
  bool CanRecordPasses() const;
  Status RunWholeStep();
  Status RunPasses() { return options_.executor->RunStep(*options_.stage, ids()); }
  Status RunRecorded(const std::function<Status()>& body);
  Result<double> RunUpdate(AdamWStep step);
  // All that a recording holds and that can be otherwise in another step.
  struct RecordedFor {
    std::vector<const void*> addresses;
    std::vector<double> scales;  // of the microbatches' gradients
    auto operator<=>(const RecordedFor&) const = default;
  };
  RecordedFor Now() const;
  const std::vector<MicrobatchId>& ids() const { return options_.store->microbatches(); }
  void SetPhase(const char* phase) const {
    if (options_.phase) options_.phase(phase);
  }

  TrainingStepOptions options_;
  Buffer given_;    // StepNumbers, pinned: what the host has to say
  Buffer numbers_;  // on the device
  Buffer made_;     // pinned: what the device says
  // Null where a step was run and not yet recorded.
  std::map<RecordedFor, std::unique_ptr<Recording>> recordings_;
  int64_t replayed_ = 0;
};

}  // namespace trireme
