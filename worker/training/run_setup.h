// From a run's configuration to the objects of a worker: what train and plan must agree on.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "parallelism/gradient_store.h"
#include "parallelism/schedule.h"
#include "worker/model/decoder_stage.h"
#include "worker/optimizer/adamw.h"

namespace trireme {

namespace proto {
class Config;
}

// All of a filled-in configuration.
DType ComputeDType(const proto::Config& config);
WeightTypes WeightTypesOf(const proto::Config& config);
int64_t MicrobatchesPerStep(const proto::Config& config);
StageOptions StageOptionsFor(const proto::Config& config, const Mesh& mesh, int rank);
// The pipeline schedule of a data rank with so many microbatches a step. kInvalidArgument: an
// unknown name, or a CSV that is not valid for this layout.
Result<Schedule> ScheduleFor(const proto::Config& config, int microbatches);

// The optimizer's view of the store's slices, by what it keeps the parameters in: f32, or bf16.
struct AdamWSlices {
  std::vector<AdamWSlice> in_f32;
  std::vector<AdamWRoundedSlice> rounded;
};
AdamWSlices ToAdamW(std::span<const UpdateSlice> slices);

}  // namespace trireme
