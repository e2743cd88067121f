// The same numbers in bf16: compute in bfloat16, masters, sums and losses in f32. What may be off
// is stated here, in units of bf16's unit roundoff u = 2^-9, as a tensor's error over its norm
// (both in the 2-norm), so that one number holds for every tensor of every family.
#include <algorithm>
#include <cmath>

#include "tests/worker_model/fixtures.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

constexpr double kUnit = 1.0 / 512;
// Twice what was seen on CPUs and on the simulated kernels, or more. Weights and activations are
// rounded, each by up to u; a gradient has been through all roundings twice. Of a loss the errors
// of its tokens cancel. AdamW turns the sign of small gradients into steps, so the masters'
// movement is further off than gradients are.
constexpr double kLogitsBound = 12 * kUnit;
constexpr double kLossBound = 1 * kUnit;
constexpr double kGradientBound = 24 * kUnit;
constexpr double kNormBound = 4 * kUnit;
constexpr double kMovementBound = 32 * kUnit;

struct Distance {
  double error = 0, reference = 0;

  void Add(double ours, double theirs, double from = 0) {
    error += (ours - theirs) * (ours - theirs);
    reference += (theirs - from) * (theirs - from);
  }
  double relative() const { return std::sqrt(error / reference); }
};

class Bf16FixtureTest : public FixtureTest {
 protected:
  // What the largest error was, in units of u: in the test's XML, and on the screen.
  void Tell(const std::string& what, double error) {
    RecordProperty(what, std::to_string(error / kUnit));
    largest_[what] = std::max(largest_[what], error / kUnit);
  }
  void TearDown() override {
    for (const auto& [what, error] : largest_)
      printf("largest error of %s: %.2f u\n", what.c_str(), error);
  }
  std::map<std::string, double> largest_;
};

TEST_F(Bf16FixtureTest, Logits) {
  for (const fs::path& folder : Folders()) {
    SCOPED_TRACE(folder);
    const Fixture fixture(folder);
    const std::vector<float> logits = fixture.Logits(DType::kBF16);
    const auto expected = TensorFile::Open(folder / "expected.safetensors").Read<float>("logits");
    ASSERT_EQ(logits.size(), expected.size());
    Distance distance;
    for (size_t i = 0; i < expected.size(); ++i) distance.Add(logits[i], expected[i]);
    EXPECT_LE(distance.relative(), kLogitsBound);
    EXPECT_GT(distance.relative(), 0.05 * kUnit) << "this was not computed in bf16";
    Tell("logits", distance.relative());
  }
}

TEST_F(Bf16FixtureTest, LossAndGradients) {
  for (const fs::path& folder : Folders()) {
    SCOPED_TRACE(folder);
    Fixture fixture(folder);
    fixture.options.microbatches.resize(1);
    fixture.options.compute = DType::kBF16;
    const HarnessResult result = RunHarness(fixture.options);
    ASSERT_TRUE(result.status.ok()) << result.status.message();
    const double loss_error =
        std::abs(result.losses[0] / double{fixture.expected_json["loss"]} - 1);
    EXPECT_LE(loss_error, kLossBound);
    Tell("loss", loss_error);
    const TensorFile expected = TensorFile::Open(folder / "expected.safetensors");
    for (const auto& [name, gradient] : result.gradients) {
      const auto reference = expected.Read<float>("grad." + name);
      ASSERT_EQ(gradient.size(), reference.size()) << name;
      Distance distance;
      fixture.ForEachElement(name, reference.size(),
                             [&](size_t i) { distance.Add(gradient[i], reference[i]); });
      if (distance.reference == 0) continue;  // zero by algebra
      EXPECT_LE(distance.relative(), kGradientBound) << name;
      Tell("gradients", distance.relative());
    }
  }
}

TEST_F(Bf16FixtureTest, TwelveStepsOfTraining) {
  for (const fs::path& folder : TrainedFolders()) {
    SCOPED_TRACE(folder);
    Fixture fixture(folder);
    const auto training = ReadFixtureJson(folder / "training.json");
    Distance distance;
    const HarnessResult result =
        fixture.Train(training, DType::kBF16, [&](double ours, double reference, double initial) {
          distance.Add(ours, reference, initial);
        });
    ASSERT_FALSE(result.losses.empty());
    for (int step = 0; step < fixture.options.steps; ++step) {
      const auto& log = training["log"][step];
      const double loss_error = std::abs(result.losses[step] / double{log["loss"]} - 1);
      const double norm_error = std::abs(result.norms[step] / double{log["grad_norm"]} - 1);
      EXPECT_LE(loss_error, kLossBound) << step;
      EXPECT_LE(norm_error, kNormBound) << step;
      Tell("losses", loss_error);
      Tell("norms", norm_error);
    }
    EXPECT_LE(distance.relative(), kMovementBound);
    Tell("movement", distance.relative());
  }
}

}  // namespace
}  // namespace trireme
