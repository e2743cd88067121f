// The worker's side of checkpoints: its boxes out, its boxes in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/base/status.h"
#include "parallelism/gradient_store.h"

namespace trireme {

namespace proto {
class Config;
}

// Fills the tensors of `state`: from `checkpoint` (a store's step, "STORE@50") when it is not
// empty, else from the model that the run continues (model.from), else with the published initial
// values of the run's seed; moments then start as zeros. stream: of the tensors' device.
Status LoadState(const proto::Config& config, const std::string& checkpoint,
                 const std::vector<StateTensor>& state, const std::vector<ParameterSpec>& specs,
                 Stream& stream);

// Writes this rank's boxes as chunks of the checkpoint of `step` and returns its part of the
// manifest, for the coordinator to merge. Chunks without a manifest do not exist to readers.
Result<std::string> WriteCheckpointPart(const proto::Config& config, int64_t step,
                                        uint64_t generation, int rank,
                                        const std::vector<StateTensor>& state,
                                        const std::vector<ParameterSpec>& specs, Stream& stream);

}  // namespace trireme
