// Forward passes without a backward: validation between training steps.
#include <gtest/gtest.h>

#include <numeric>

#include "parallelism/gradient_store.h"
#include "worker/model/decoder_stage.h"

namespace trireme {
namespace {

// A stage behind another trains on one input, then evaluates another: the first one's memory is the
// receiver's again and must stay untouched.
TEST(EvaluationTest, LeavesTheInputsOfTrainingAlone) {
  ModelShape shape;
  shape.vocab_size = 19;
  shape.hidden_size = 8;
  shape.intermediate_size = 12;
  shape.layers = 4;
  shape.heads = shape.kv_heads = 2;
  shape.head_dim = 4;
  shape.max_positions = 8;
  StageOptions options;
  options.shape = shape;
  options.mesh = Mesh(1, 1, 2);
  options.rank = 1;
  options.tokens = {1, 6};
  auto world = ThreadWorld(2);
  ProcessGroups groups(world[1].get(), options.mesh, IdentityHosts(2), 1);
  Stream stream(1);
  const std::vector<ParameterSpec> specs = ParameterSpecs(shape, 1, 2);
  ShardedParameterStore store(specs, &groups, &stream, {});
  for (const StateTensor& state : store.StateToLoad()) {
    if (state.kind != StateTensor::Kind::kWeight) continue;
    FillInitialValues(specs[state.id], 1, state.box, state.tensor.as<float>());
  }
  const Buffer tokens(2 * 6 * 4);
  Microbatch microbatch;
  microbatch.ids = tokens.AsTensor(DType::kI32, {1, 6});
  microbatch.labels = Tensor(tokens.data() + 24, DType::kI32, {1, 6});
  microbatch.places.positions = microbatch.ids;  // all zeros will do
  DecoderStage stage(options, specs, &stream, &store, TensorGroup(),
                     [&](MicrobatchId) -> const Microbatch& { return microbatch; });
  stage.Reserve(1);
  const Buffer memory(2 * 48 * 4);
  std::iota(reinterpret_cast<float*>(memory.data()), reinterpret_cast<float*>(memory.data()) + 96,
            1.0f);
  const Tensor trained = memory.AsTensor(DType::kF32, {6, 8});
  const Tensor evaluated(memory.data() + 48 * 4, DType::kF32, {6, 8});
  const std::vector<float> before(trained.as<float>(), trained.as<float>() + 48);
  stage.Forward(0, {{{"hidden", trained}}});
  stage.BackwardInput(0, {}, WeightGradients::kWithInput);
  stage.set_evaluation(true);
  stage.Forward(0, {{{"hidden", evaluated}}});
  EXPECT_EQ(std::vector<float>(trained.as<float>(), trained.as<float>() + 48), before);
}

}  // namespace
}  // namespace trireme
