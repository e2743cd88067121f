// A run that goes on from a checkpoint: what it takes from there, what must agree, and whose the
// checkpoint is.
#pragma once

#include <string>
#include <vector>

#include "cli/config_places.h"
#include "cluster/base/status.h"

namespace trireme {

namespace proto {
class Config;
class Manifest;
}  // namespace proto

// kInvalidArgument when another run than `config` wrote the checkpoint: what it has in its store is
// neither to be continued nor deleted. A run that was moved, or given a copy of a store inside its
// folder, is still the same.
Status CheckOwner(const proto::Config& recorded, const proto::Config& config,
                  const ConfigPlaces& places);

// Makes `config`, as it was written, the run of the checkpoint: what was left out and follows from
// keys that may change (lr_schedule.steps, the layout) or from files is as it was recorded; then
// every default is filled in. kInvalidArgument, naming the first key under which two runs differ
// that may not change between them, with both values. Data and models are the same however their
// paths are spelled; and where the checkpoint has fingerprints of its training data, those decide
// and not the paths: the caller compares them.
Status GoOnFrom(const proto::Manifest& manifest, const ConfigPlaces& places, proto::Config* config);

// Why a run that goes on from this checkpoint as `wanted` need not have the bits that it would have
// had unchanged: one line a condition, with what was and what is.
std::vector<std::string> EndedPromises(const proto::Manifest& recorded,
                                       const proto::Config& wanted);

}  // namespace trireme
