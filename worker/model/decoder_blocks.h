// DecoderBlocks: the blocks of one pipeline stage of a family, found by their parameters' names.
// Training (DecoderStage) and cached decoding (LanguageModel) both run these.
#pragma once

#include <memory>
#include <vector>

#include "worker/model/decoder_layer.h"
#include "worker/model/token_blocks.h"

namespace trireme {

struct DecoderBlocks {
  std::unique_ptr<RotaryTable> rotary;        // null: learned positions
  std::unique_ptr<EmbeddingBlock> embedding;  // first stage
  std::vector<std::unique_ptr<DecoderLayer>> layers;
  std::unique_ptr<NormBlock> final_norm;   // last stage
  std::unique_ptr<Classifier> classifier;  // last stage

  // specs: ParameterSpecs() of the shape for the mesh. positions: the most that will be seen.
  // `context` outlives the blocks and has its parameters and tensor group set.
  static DecoderBlocks Build(BlockContext* context, const ModelShape& shape,
                             const std::vector<ParameterSpec>& specs, const Mesh& mesh, int rank,
                             Recompute recompute, int64_t positions);
};

}  // namespace trireme
