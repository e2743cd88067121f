// A training run before it starts: its configuration settled, its folder looked at.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cli/run_options.h"
#include "cluster/base/status.h"

namespace trireme {

namespace proto {
class Config;
}  // namespace proto

struct TrainingRun {
  std::shared_ptr<const proto::Config> config;  // every default filled in
  int64_t start_step = 0;
  std::string checkpoint;            // to go on from: "STORE@50"; empty for a new run
  std::string copy_from;             // the store that holds it yet: see TakeCheckpointAlong
  std::vector<int64_t> checkpoints;  // of checkpoint.store, up to that one, ascending
  int64_t label_tokens = 0;
  bool finished = false;
  std::vector<std::string> train_data;      // DataFeed::TrainFingerprints(); empty when finished
  std::vector<std::string> promises_ended;  // see EndedPromises
  std::vector<std::string> set_aside;       // checkpoints that did not verify, with the reason
  std::vector<std::string> warnings;        // of keys without effect, one line each
};

// The configuration with model.from resolved, every default filled in as a new run has it, and
// checked. Errors: LoadConfig's, WeightSource::Open's, and kInvalidArgument for a key of the model
// that contradicts it.
Result<std::shared_ptr<proto::Config>> LoadFilledConfig(const RunFileOptions& file);

// Everything that can be refused before anything starts. Errors as the interface has them: another
// model, data, batch, optimizer or seed than the checkpoint's is kInvalidArgument, naming the key;
// checkpoints of which none verifies kStorage; token files kDataLoss.
// gpus: whether there are any, for `device: auto`.
Result<TrainingRun> PrepareTraining(const RunFileOptions& file, bool fresh, bool gpus);

// checkpoint.store is another than the run had: copies the checkpoint to go on from there,
// verified. Nothing to do otherwise. Comes before config.yaml, which names the store before until
// then. Errors: CopyCheckpoint's.
Status TakeCheckpointAlong(const TrainingRun& run);

// Writes what a run leaves in its folder from the start: config.yaml, tokenizer.json.
Status WriteRunFolder(const TrainingRun& run);

}  // namespace trireme
