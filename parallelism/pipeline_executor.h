// PipelineExecutor: runs one stage's row of a schedule over a StageModel.
#pragma once

#include <memory>
#include <span>

#include "cluster/comm/communicator.h"
#include "cluster/device/graph.h"
#include "cluster/device/stream.h"
#include "parallelism/phase_hook.h"
#include "parallelism/schedule.h"
#include "parallelism/stage_model.h"

namespace trireme {

struct PipelineOptions {
  Communicator* pipeline = nullptr;  // along the pipeline axis; null for one stage
  Stream* stream = nullptr;          // copies to and from communication buffers
  Micros timeout = 0;                // the longest wait for a neighbour, its computation included
  PhaseHook phase;
};

// Owns every buffer that communication touches: receives are posted ahead, sends copy what the
// model returns and go on in the background. All stages of a pipeline call the same methods in the
// same order. One thread.
//
// Errors: those of the communicator, with stage, action and microbatch. After one, everything in
// flight has been abandoned, microbatches that were live have been given to StageModel::Forget, and
// the pipeline's communicator is of no more use: its generation is over.
class PipelineExecutor {
 public:
  // `schedule` is valid; `stage` is the index along the pipeline axis.
  PipelineExecutor(Schedule schedule, int stage, PipelineOptions options);
  ~PipelineExecutor();

  // Peak of microbatches that the model must be able to hold: Reserve() is called with it before
  // the first step.
  int live_microbatches() const;

  // One step: forward and backward of every microbatch. ids[i] is the model's id of the schedule's
  // microbatch i: ascending, as many as the schedule has.
  Status RunStep(StageModel& model, std::span<const MicrobatchId> ids);
  // Until it is called with null, RunStep belongs to a recording of the stream: messages go, and
  // the stream follows them, when it is replayed. After a replay that fails: Abandon.
  void RecordTo(Recording* recording) { recording_ = recording; }
  // Gives up every message in flight.
  void Abandon();
  // Forward alone, in this order, for validation. Any number of microbatches.
  Status RunForwardOnly(StageModel& model, std::span<const MicrobatchId> ids);

 private:
  class Run;
  Schedule schedule_;
  int stage_;
  PipelineOptions options_;
  bool reserved_ = false;
  Recording* recording_ = nullptr;
  struct Buffers;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace trireme
