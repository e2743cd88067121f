// Logits, losses, gradients, a training run and greedy decoding against PyTorch's numbers, for
// every fixture folder of a family that is built.
#include <cmath>

#include "tests/worker_model/fixtures.h"
#include "worker/inference/generator.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

TEST_F(FixtureTest, LogitsAreThoseOfTheReference) {
  for (const fs::path& folder : Folders()) {
    SCOPED_TRACE(folder);
    const Fixture fixture(folder);
    const std::vector<float> logits = fixture.Logits(DType::kF32);
    const auto expected = TensorFile::Open(folder / "expected.safetensors").Read<float>("logits");
    ASSERT_EQ(logits.size(), expected.size());
    double worst = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::abs(double{logits[i]} - expected[i]));
    }
    EXPECT_LE(worst, tolerances_.at(fixture.name).logits);
    RecordProperty(fixture.name, std::to_string(worst));
  }
}

TEST_F(FixtureTest, LossAndGradientsAreThoseOfTheReference) {
  for (const fs::path& folder : Folders()) {
    SCOPED_TRACE(folder);
    Fixture fixture(folder);
    fixture.options.microbatches.resize(1);
    const HarnessResult result = RunHarness(fixture.options);
    ASSERT_TRUE(result.status.ok()) << result.status.message();
    const Tolerances tolerance = tolerances_.at(fixture.name);
    const double loss = fixture.expected_json["loss"];
    EXPECT_NEAR(result.losses[0] / loss, 1.0, tolerance.loss);
    const TensorFile expected = TensorFile::Open(folder / "expected.safetensors");
    int compared = 0;
    for (const SafetensorsTensor& tensor : expected.reader->header().tensors) {
      if (!tensor.name.starts_with("grad.")) continue;
      const std::string name = tensor.name.substr(5);
      ASSERT_TRUE(result.gradients.contains(name)) << name;
      const auto reference = expected.Read<float>(tensor.name);
      const auto& gradient = result.gradients.at(name);
      ASSERT_EQ(gradient.size(), reference.size()) << name;
      double largest = 0, worst = 0;
      for (const float x : reference) largest = std::max(largest, std::abs(double{x}));
      fixture.ForEachElement(name, reference.size(), [&](size_t i) {
        worst = std::max(worst, std::abs(double{gradient[i]} - reference[i]));
      });
      EXPECT_LE(worst / largest, tolerance.gradients) << name;
      ++compared;
    }
    EXPECT_EQ(compared, static_cast<int>(result.gradients.size()));
  }
}

TEST_F(FixtureTest, TwelveStepsOfTrainingFollowTheReference) {
  for (const fs::path& folder : TrainedFolders()) {
    SCOPED_TRACE(folder);
    Fixture fixture(folder);
    const auto training = ReadFixtureJson(folder / "training.json");
    double difference = 0, moved = 0, worst = 0;
    const HarnessResult result =
        fixture.Train(training, DType::kF32, [&](double ours, double reference, double initial) {
          difference += std::pow(ours - reference, 2);
          moved += std::pow(reference - initial, 2);
          worst = std::max(worst, std::abs(ours - reference));
        });
    ASSERT_FALSE(result.losses.empty());
    const Tolerances tolerance = tolerances_.at(fixture.name);
    for (int step = 0; step < fixture.options.steps; ++step) {
      const auto& log = training["log"][step];
      EXPECT_NEAR(result.losses[step] / double{log["loss"]}, 1.0, tolerance.train_loss) << step;
      EXPECT_NEAR(result.norms[step] / double{log["grad_norm"]}, 1.0, tolerance.train_norm) << step;
    }
    EXPECT_LE(std::sqrt(difference / moved), tolerance.update);
    EXPECT_LE(worst, tolerance.param);
  }
}

TEST_F(FixtureTest, GreedyDecodingIsThatOfTheReference) {
  for (const fs::path& folder : TrainedFolders()) {
    SCOPED_TRACE(folder);
    const auto generation = ReadFixtureJson(folder / "generation.json");
    auto model = LanguageModel::Load((folder / "model").string(), {DType::kF32, 1, kFixtureGpu});
    ASSERT_TRUE(model.ok()) << model.status().message();
    GenerationOptions options;
    options.sampling.temperature = 0;
    options.tokens_max = generation["new_tokens"];
    options.end_ids = model.value()->source().end_ids();
    options.ignore_end = true;
    ASSERT_FALSE(generation["greedy"].empty());
    for (const auto& run : generation["greedy"]) {
      const auto result = Generate(model->get(), nullptr, run["prompt"], options);
      ASSERT_TRUE(result.ok()) << result.status().message();
      EXPECT_EQ(result->ids, std::vector<int32_t>(run["tokens"]));
      EXPECT_EQ(result->finish_reason, "length");
    }
  }
}

}  // namespace
}  // namespace trireme
