#include "worker/model/decoder_blocks.h"

namespace trireme {

DecoderBlocks DecoderBlocks::Build(BlockContext* context, const ModelShape& shape,
                                   const std::vector<ParameterSpec>& specs, const Mesh& mesh,
                                   int rank, Recompute recompute, int64_t positions) {
  DecoderBlocks blocks;
  const bool gpt2 = shape.family == ModelFamily::kGpt2;
  const int stage = mesh.Index(rank, Axis::kPipeline), stages = mesh.size(Axis::kPipeline);
  if (!gpt2) blocks.rotary = std::make_unique<RotaryTable>(shape, positions, context->stream);
  const ParamId table =
      FindParameter(specs, gpt2 ? "transformer.wte.weight" : "model.embed_tokens.weight");
  const Box rows = LocalRegion(specs[table].shape, specs[table].placement, mesh, rank);
  if (stage == 0) {
    blocks.embedding =
        std::make_unique<EmbeddingBlock>(context, shape.hidden_size, table, rows.offset[0],
                                         FindParameter(specs, "transformer.wpe.weight"));
  }
  const LayerRange range = StageLayers(shape.layers, stages, stage);
  for (int64_t layer = range.begin; layer < range.end; ++layer) {
    blocks.layers.push_back(std::make_unique<DecoderLayer>(context, shape, specs, layer,
                                                           blocks.rotary.get(), recompute));
  }
  if (stage == stages - 1) {
    const std::string norm = gpt2 ? "transformer.ln_f" : "model.norm";
    blocks.final_norm = std::make_unique<NormBlock>(
        context, gpt2 ? NormKind::kLayer : NormKind::kRms, shape.norm_eps,
        FindParameter(specs, norm + ".weight"), FindParameter(specs, norm + ".bias"));
    const ParamId head = shape.tied ? table : FindParameter(specs, "lm_head.weight");
    blocks.classifier = std::make_unique<Classifier>(
        context, shape.hidden_size, head, shape.tied ? 1 : 0, rows.offset[0], rows.extent[0]);
  }
  return blocks;
}

}  // namespace trireme
