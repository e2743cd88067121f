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
  ProcessGroups* groups = nullptr;
  ShardedParameterStore* store = nullptr;
  DecoderStage* stage = nullptr;
  PipelineExecutor* executor = nullptr;
  MicrobatchSource source;  // of the stage
  double clip_norm = 1;     // 0: gradients are not clipped
  uint64_t seed = 0;        // of random rounding, where weights have no masters
  Micros timeout = 0;
  std::function<void(const char* phase)> phase;  // may be empty
  // What the host does while a GPU works on a step that is enqueued; may be empty.
  std::function<void()> meanwhile;
  // Steps of a GPU are recorded as CUDA graphs.
  bool record = true;
};

// On a GPU a step is recorded and from then on replayed; weights live in two places by turns, so
// there are two recordings. A rank that is alone runs each as it is written once, and then its step
// is one graph. Ranks of a group rehearse first: a step without messages, whose results are worth
// nothing, loads, measures and allocates whatever might make one rank wait for all kernels of its
// GPU while another's kernel waits for that rank; then they connect, a group at a time. Their steps
// are graphs cut where the host starts an operation, and the stream goes on behind it: the host
// waits for the end of the step alone. Bits are the same in all of these.
class TrainingStep {
 public:
  explicit TrainingStep(TrainingStepOptions options);

  // One step over the store's microbatches, which `source` has. `step`: all but gradient_scale. The
  // caller takes the losses from the stage and commits. Returns the norm of the gradients before
  // clipping.
  Result<double> Run(const AdamWStep& step);

  // Steps that were replayed, so far, and graphs of the last one.
  int64_t replayed() const { return replayed_; }
  int64_t graphs() const { return graphs_; }

 private:
  // A step that was recorded, and its microbatches in the order of their losses.
  struct Recorded {
    Recording recording;
    std::vector<MicrobatchId> losses;
  };
  // All that a recording holds and that can be otherwise in another step.
  struct RecordedFor {
    std::vector<const void*> addresses;
    std::vector<double> scales;  // of the microbatches' gradients
    auto operator<=>(const RecordedFor&) const = default;
  };
  bool OnGpu() const { return options_.stream->device() != DeviceKind::kCpu; }
  bool IsAlone() const { return options_.groups->World() == nullptr; }
  Result<double> RunOnGpu(const AdamWStep& step);
  Result<double> RunOnCpu(AdamWStep step);
  Status Rehearse();
  Status RunOrReplay();
  Status Enqueue();
  Status EnqueueInto(Recording* recording);
  Result<std::unique_ptr<Recorded>> Record();
  Status MeetOthers(const char* why);
  template <typename Numbers>
  Status Update(const Numbers& numbers);
  Status RunPasses() { return options_.executor->RunStep(*options_.stage, ids()); }
  RecordedFor Now() const;
  const std::vector<MicrobatchId>& ids() const { return options_.store->microbatches(); }
  void SetPhase(const char* phase) const {
    if (options_.phase) options_.phase(phase);
  }

  TrainingStepOptions options_;
  Buffer given_;    // StepNumbers, pinned: what the host has to say
  Buffer numbers_;  // on the device
  Buffer made_;     // pinned: what the device says
  bool rehearsed_ = false;
  // Null where a step was run and not yet recorded.
  std::map<RecordedFor, std::unique_ptr<Recorded>> recordings_;
  int64_t recorded_ = 0, replayed_ = 0, graphs_ = 0;
};

}  // namespace trireme
