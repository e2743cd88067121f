// A small training state, cut into boxes in many ways and written as a checkpoint.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "cluster/base/rng.h"
#include "storage/checkpoint_reader.h"
#include "storage/checkpoint_writer.h"

namespace trireme {

namespace proto {
class Config;
}

// Named f32 tensors with random values; `shape` may be a view of `published`.
struct StateTensors {
  struct Tensor {
    Shape shape;
    Shape published;
    std::vector<float> values;
  };
  std::map<std::string, Tensor> tensors;

  void Add(const std::string& name, Shape shape, Shape published = {});
  static StateTensors Small();
};

// Cuts a box at random places, `cuts` times.
std::vector<Box> RandomTiling(const Shape& shape, int cuts, const CounterRng& rng, uint64_t* draw);

struct WriteOptions {
  int64_t step = 50;
  int64_t generation = 1;
  int ranks = 1;
  int cuts = 0;  // of each tensor; 0: whole tensors
  uint64_t seed = 1;
  int64_t chunk_bytes_max = 1 << 30;
};

// The ranks' parts; boxes are dealt to the ranks at random.
Result<std::vector<std::string>> WriteParts(ObjectStore& store, const StateTensors& state,
                                            const WriteOptions& options);
proto::Config SmallConfig();
CheckpointFacts SmallFacts(const WriteOptions& options, const proto::Config& config);
Status WriteCheckpoint(ObjectStore& store, const StateTensors& state, const WriteOptions& options);
CheckpointHash HashOf(const ObjectStore& store, int64_t step);

}  // namespace trireme
