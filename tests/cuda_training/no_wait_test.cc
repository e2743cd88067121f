// The host does not wait within a training step: forward and backward passes can be captured into a
// graph, and a capture refuses whatever waits for the stream or copies to pageable memory.
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "cluster/device/graph.h"
#include "parallelism/gradient_store.h"
#include "tests/parity/layouts.h"
#include "worker/model/decoder_stage.h"
#include "worker/optimizer/adamw.h"
#include "worker/training/run_setup.h"

namespace trireme {
namespace {

constexpr Micros kTimeout = 120'000'000;

// One rank's model on a GPU, over one microbatch.
class Trained {
 public:
  explicit Trained(const ModelShape& shape)
      : tokens_{2, 12},
        specs_(ParameterSpecs(shape, 1, 1)),
        store_(specs_, &groups_, &stream_, {}),
        stage_({shape, Mesh(1, 1, 1), 0, tokens_, DType::kF32, Recompute::kNone}, specs_, &stream_,
               &store_, TensorGroup(),
               [this](MicrobatchId) -> const Microbatch& { return data_; }) {
    const HarnessBatch batch = RandomBatches(1, tokens_, shape.vocab_size, 11)[0];
    std::vector<int32_t> positions(tokens_.tokens());
    for (int64_t i = 0; i < tokens_.tokens(); ++i) positions[i] = i % tokens_.length;
    data_ = {Place(batch.ids), Place(batch.labels), {Place(positions), Tensor()}, 1.0 / 24};
    for (const StateTensor& tensor : store_.StateToLoad()) {
      std::vector<float> values(tensor.tensor.elements(), 0.0f);
      if (tensor.kind == StateTensor::Kind::kWeight) {
        FillInitialValues(specs_[tensor.id], 1, tensor.box, values.data());
      }
      stream_.Copy(tensor.tensor.data(), values.data(), tensor.tensor.bytes());
      stream_.Synchronize();
    }
    CHECK(store_.FinishLoad(0, kTimeout).ok());
    stage_.Reserve(1);
  }

  struct Step {
    std::map<MicrobatchId, double> losses;
    double norm;
    bool operator==(const Step&) const = default;
  };
  // Gradients of a step whose weights stay as they were.
  Step Run(bool captured) {
    const auto passes = [this] {
      stage_.Forward(0, {});
      stage_.BackwardInput(0, {}, WeightGradients::kWithInput);
    };
    store_.BeginStep();
    Graph graph;
    if (captured) {
      graph = Graph::Capture(stream_, passes);
      graph.Launch(stream_);
    } else {
      passes();
    }
    CHECK(store_.FinishReduction(kTimeout).ok());
    Step step;
    step.norm = *store_.GlobalNorm(
        [this](const NormRange* ranges, int64_t count) { SumsOfSquares(stream_, ranges, count); },
        kTimeout);
    step.losses = stage_.TakeLosses();
    store_.Discard();
    return step;
  }

 private:
  Tensor Place(const std::vector<int32_t>& values) {
    Buffer& copy = copies_.emplace_back(std::ssize(values) * 4, stream_.device());
    stream_.Copy(copy.data(), values.data(), copy.bytes());
    stream_.Synchronize();
    return copy.AsTensor(DType::kI32, {tokens_.batch, tokens_.length});
  }

  TokenShape tokens_;
  Stream stream_{Gpu{0}};
  ProcessGroups groups_;
  std::vector<ParameterSpec> specs_;
  ShardedParameterStore store_;
  Microbatch data_;
  std::vector<Buffer> copies_;
  DecoderStage stage_;
};

TEST(NoWaitTest, PassesOfAStepAreCapturedAndHaveTheBitsOfEagerOnes) {
  for (const ModelShape& shape : {TinyLlama(), TinyGpt2()}) {
    Trained model(shape);
    // The first step sets up workspaces.
    const Trained::Step eager = model.Run(false);
    ASSERT_EQ(eager.losses.size(), 1u);
    EXPECT_GT(eager.norm, 0);
    EXPECT_EQ(model.Run(true), eager);
    EXPECT_EQ(model.Run(false), eager);
  }
}

}  // namespace
}  // namespace trireme
