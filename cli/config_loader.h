// run.yaml: read, checked, filled in, written.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/config_places.h"
#include "cluster/base/status.h"

namespace trireme::proto {
class Config;
}

namespace trireme {

// Reads a run and checks it as it would be with all defaults filled in. What is returned holds only
// what was written (and run.dir): FillDefaults does the rest, so that the caller can first put in
// what a checkpoint recorded. `overrides` ("optimizer.lr=3e-4") win over the file. When they move
// run.dir, a checkpoint.store inside the file's run.dir moves along, and the store of a run whose
// own config.yaml this is stays that run's: the new one gets the default.
// `places`: where what was written; may be null.
//
// Errors, each one line with file, line, key, value, what was expected and the nearest valid name:
// kInvalidArgument; kNotBuilt for what this build does not have.
Result<std::unique_ptr<proto::Config>> LoadConfig(const std::string& yaml_path,
                                                  const std::vector<std::string>& overrides,
                                                  ConfigPlaces* places = nullptr);

// The same from text; `name` stands for the file in messages.
Result<std::unique_ptr<proto::Config>> ParseConfig(std::string_view yaml, const std::string& name,
                                                   const std::vector<std::string>& overrides,
                                                   ConfigPlaces* places = nullptr);

// Sets every unset key to its default and writes `auto`s out. The model is filled in only when it
// does not come from elsewhere (model.from): resolve that first (ResolveModelFrom).
Status FillDefaults(proto::Config* config);

// Checks a filled-in run: ranges, names, and keys that contradict each other. LoadConfig has done
// this already; call it again after changing the message. Checks of the model are left out while
// model.from is not resolved.
Status ValidateConfig(const proto::Config& config);
// The same; errors begin with the place of the key and call it as the user did.
Status CheckConfig(const proto::Config& config, const ConfigPlaces& places);

// The run as YAML in the order of proto/config.proto, unset fields left out. Loading it back gives
// the same message. `header`: lines put before it as comments (versions).
std::string ConfigToYaml(const proto::Config& config, const std::string& header = "");

// batch.sum_leaves "auto": 8, or the data width rounded up to a power of two if that is larger, but
// no more than the largest power of two that divides the number of microbatches.
int64_t ResolveSumLeaves(int64_t microbatches, int64_t data_width);

// data x tensor x pipeline x context of a filled-in run.
int64_t WorkerCount(const proto::Config& config);

}  // namespace trireme
