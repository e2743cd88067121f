#include "tests/storage/checkpoint_fixture.h"

#include <glog/logging.h>

#include <algorithm>

#include "proto/config.pb.h"

namespace trireme {

void StateTensors::Add(const std::string& name, Shape shape, Shape published) {
  Tensor tensor{shape, published.empty() ? shape : published, {}};
  const CounterRng rng(1, RngUse::kTest, tensors.size());
  for (int64_t i = 0; i < ElementCount(shape); ++i) tensor.values.push_back(rng.Normal(i));
  tensors[name] = std::move(tensor);
}

StateTensors StateTensors::Small() {
  StateTensors state;
  for (const char* prefix : {"", "optimizer.m.", "optimizer.v."}) {
    const std::string p = prefix;
    state.Add(p + "model.embed_tokens.weight", {37, 8});
    state.Add(p + "h.0.attn.c_attn.weight", {8, 3, 8}, {8, 24});
    state.Add(p + "h.0.attn.c_attn.bias", {3, 8}, {24});
    state.Add(p + "norm.weight", {8});
    state.Add(p + "cube", {5, 4, 6});
  }
  return state;
}

std::vector<Box> RandomTiling(const Shape& shape, int cuts, const CounterRng& rng, uint64_t* draw) {
  std::vector<Box> boxes = {Box::Whole(shape)};
  for (int c = 0; c < cuts; ++c) {
    const size_t which = rng.Below(boxes.size(), (*draw)++);
    const int d = static_cast<int>(rng.Below(shape.size(), (*draw)++));
    const Box box = boxes[which];
    if (box.extent[d] < 2) continue;
    const int64_t at = 1 + static_cast<int64_t>(rng.Below(box.extent[d] - 1, (*draw)++));
    Box tail = box;
    boxes[which].extent[d] = at;
    tail.offset[d] += at;
    tail.extent[d] -= at;
    boxes.push_back(tail);
  }
  return boxes;
}

Result<std::vector<std::string>> WriteParts(ObjectStore& store, const StateTensors& state,
                                            const WriteOptions& options) {
  const CounterRng rng(options.seed, RngUse::kTest, 9);
  uint64_t draw = 0;
  std::vector<std::vector<TensorPiece>> pieces(options.ranks);
  std::vector<std::vector<std::byte>> memory;
  for (const auto& [name, tensor] : state.tensors) {
    const Box whole = Box::Whole(tensor.shape);
    for (const Box& box : RandomTiling(tensor.shape, options.cuts, rng, &draw)) {
      std::vector<std::byte>& data = memory.emplace_back(box.elements() * 4);
      CopyRegion(box, whole, std::as_bytes(std::span(tensor.values)).data(), box, data.data(), 4);
      pieces[rng.Below(options.ranks, draw++)].push_back(
          {name, DType::kF32, tensor.shape, tensor.published, box, data.data()});
    }
  }
  std::vector<std::string> parts;
  for (int rank = 0; rank < options.ranks; ++rank) {
    const ChunkOptions chunk{options.step, options.generation, rank, options.chunk_bytes_max};
    ASSIGN_OR_RETURN(std::string part, WriteCheckpointChunks(store, chunk, pieces[rank]));
    parts.push_back(std::move(part));
  }
  return parts;
}

proto::Config SmallConfig() {
  proto::Config config;
  config.mutable_run()->set_seed(1234);
  config.mutable_model()->set_family("llama");
  config.mutable_lr_schedule()->set_name("cosine");
  config.mutable_batch()->set_microbatch_sequences(4);
  return config;
}

CheckpointFacts SmallFacts(const WriteOptions& options, const proto::Config& config) {
  CheckpointFacts facts;
  facts.step = options.step;
  facts.generation = options.generation;
  facts.config = &config;
  facts.sum_leaves = 8;
  facts.samples = options.step * 32;
  facts.tokens = options.step * 32 * 256;
  facts.label_tokens = facts.tokens;
  facts.created = "2026-11-23T18:30:00.000Z";
  return facts;
}

Status WriteCheckpoint(ObjectStore& store, const StateTensors& state, const WriteOptions& options) {
  ASSIGN_OR_RETURN(const std::vector<std::string> parts, WriteParts(store, state, options));
  const proto::Config config = SmallConfig();
  return CommitCheckpoint(store, SmallFacts(options, config), parts);
}

CheckpointHash HashOf(const ObjectStore& store, int64_t step) {
  const auto reader = CheckpointReader::Open(store, step);
  CHECK(reader.ok()) << reader.status().message();
  const auto hash = (*reader)->Hash();
  CHECK(hash.ok()) << hash.status().message();
  return *hash;
}

}  // namespace trireme
