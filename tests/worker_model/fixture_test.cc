// Logits, losses, gradients, a training run and greedy decoding against PyTorch's numbers, for
// every fixture folder of a family that is built. Models come through WeightSource, as in a run.
#include <glog/logging.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <sstream>

#include "cluster/base/status.h"
#include "proto/config.pb.h"
#include "storage/safetensors.h"
#include "tests/harness/training_harness.h"
#include "worker/inference/generator.h"
#include "worker/kernels/cross_entropy.h"
#include "worker/model/model_config.h"
#include "worker/model/weight_source.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

// TRIREME_TEST_GPU: the same on GPU 0 (tests/cuda_fixtures).
#ifdef TRIREME_TEST_GPU
constexpr DeviceKind kDevice = DeviceKind::kCuda;
const std::optional<Gpu> kGpu = Gpu{0};
#else
constexpr DeviceKind kDevice = DeviceKind::kCpu;
const std::optional<Gpu> kGpu;
#endif

// "Recommended for an f32 implementation": the table of the fixtures' README, read from it. A "-"
// in it: this family has no training run, and no decoding on record.
struct Tolerances {
  double logits, loss, gradients, train_loss, train_norm, update, param;

  bool trained() const { return train_loss > 0; }
};

std::map<std::string, Tolerances> ReadTolerances(const fs::path& readme) {
  std::map<std::string, Tolerances> table;
  std::ifstream in(readme);
  bool recommended = false;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("Recommended for an f32")) recommended = true;
    if (!recommended || !line.starts_with("| ")) continue;
    std::istringstream cells(line);
    std::string cell, name;
    std::vector<double> values;
    std::getline(cells, cell, '|');
    std::getline(cells, name, '|');
    while (std::getline(cells, cell, '|')) values.push_back(std::atof(cell.c_str()));
    name.erase(std::remove(name.begin(), name.end(), ' '), name.end());
    if (values.size() < 7 || values[0] <= 0) continue;
    table[name] = {values[0], values[1], values[2], values[3], values[4], values[5], values[6]};
  }
  return table;
}

nlohmann::json ReadJson(const fs::path& path) {
  std::ifstream in(path);
  CHECK(in) << path << " is missing";
  nlohmann::json json = nlohmann::json::parse(in, nullptr, false);
  CHECK(!json.is_discarded()) << path << " is not JSON";
  return json;
}

// All tensors of a safetensors file, as f32 or whole numbers.
struct TensorFile {
  std::unique_ptr<ObjectStore> store;
  std::unique_ptr<SafetensorsReader> reader;

  static TensorFile Open(const fs::path& path) {
    TensorFile file;
    file.store = NewLocalStore(path.parent_path());
    auto reader = SafetensorsReader::Open(*file.store, path.filename());
    CHECK(reader.ok()) << reader.status().message();
    file.reader = std::move(reader).value();
    return file;
  }
  template <typename T>
  std::vector<T> Read(const std::string& name) const {
    const SafetensorsTensor* tensor = reader->Find(name);
    CHECK(tensor != nullptr) << name << " is missing";
    std::vector<T> values(ElementCount(tensor->shape));
    const Status status = reader->Read(name, Box::Whole(tensor->shape), DTypeOf<T>::value,
                                       reinterpret_cast<std::byte*>(values.data()));
    EXPECT_TRUE(status.ok()) << status.message();
    return values;
  }
};

class FixtureTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* shared = std::getenv("TRIREME_SHARED");
    if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
    root_ = fs::path(shared) / "fixtures";
    ASSERT_TRUE(fs::exists(root_ / "README.md")) << root_ << " is missing";
    tolerances_ = ReadTolerances(root_ / "README.md");
  }

  // Folders of the README's table with a model of a family that is built; at least one a family.
  std::vector<fs::path> Folders() const {
    std::vector<fs::path> folders;
    std::set<std::string> missing(BuiltModelFamilies().begin(), BuiltModelFamilies().end());
    const std::set<std::string> built = missing;
    for (const auto& [name, tolerances] : tolerances_) {
      const std::string family =
          ReadJson(root_ / name / "model" / "config.json").value("model_type", "");
      if (!built.contains(family)) continue;
      folders.push_back(root_ / name);
      missing.erase(family);
    }
    EXPECT_TRUE(missing.empty()) << root_ << " has no folder of " << *missing.begin();
    return folders;
  }
  // Those with a training run and with decoding.
  std::vector<fs::path> TrainedFolders() const {
    std::vector<fs::path> folders = Folders();
    std::erase_if(folders, [&](const fs::path& folder) {
      if (tolerances_.at(folder.filename()).trained()) return false;
      EXPECT_FALSE(fs::exists(folder / "training.json") || fs::exists(folder / "generation.json"))
          << folder << " has what the README says it has not";
      return true;
    });
    EXPECT_FALSE(folders.empty());
    return folders;
  }

  fs::path root_;
  std::map<std::string, Tolerances> tolerances_;
};

// A fixture folder opened: its model, batches and expectations.
struct Fixture {
  std::string name;
  std::unique_ptr<WeightSource> model;
  HarnessOptions options;
  nlohmann::json expected_json;

  explicit Fixture(const fs::path& folder) : name(folder.filename()) {
    auto opened = WeightSource::Open((folder / "model").string());
    CHECK(opened.ok()) << opened.status().message();
    model = std::move(opened).value();
    options.shape = ModelShape::From(model->config());
    options.device = kDevice;
    options.initial = [this](const ParameterSpec& spec, const Box& box, float* out) {
      return model->Read(spec.name, spec.shape, box, out);
    };
    expected_json = ReadJson(folder / "expected.json");
    const TensorFile batches = TensorFile::Open(folder / "batch.safetensors");
    for (int i = 0; batches.reader->Find(StrCat("batch", i, ".input_ids")) != nullptr; ++i) {
      ReadBatch(batches, StrCat("batch", i, "."));
    }
    CHECK(!options.microbatches.empty()) << folder << " has no batches";
  }

  void ReadBatch(const TensorFile& batches, const std::string& prefix) {
    const Shape shape = batches.reader->Find(prefix + "input_ids")->shape;
    options.tokens = {shape[0], shape[1]};
    const auto ids = batches.Read<int64_t>(prefix + "input_ids");
    const auto labels = batches.Read<int64_t>(prefix + "labels");
    HarnessBatch batch;
    batch.ids.assign(ids.begin(), ids.end());
    // The files' labels are those of their own position; ours belong to the position before.
    for (int64_t b = 0; b < shape[0]; ++b) {
      for (int64_t t = 0; t < shape[1]; ++t) {
        const int64_t next = b * shape[1] + t + 1;
        batch.labels.push_back(t + 1 < shape[1] ? static_cast<int32_t>(labels[next]) : kNoLabel);
      }
    }
    options.microbatches.push_back(std::move(batch));
  }

  // The run of training.json.
  void SetTraining(const nlohmann::json& training) {
    const auto& optimizer = training["optimizer"];
    CHECK_EQ(optimizer["name"], "adamw");
    options.steps = training["steps"];
    CHECK_EQ(training["log"].size(), static_cast<size_t>(options.steps));
    CHECK_EQ(training["microbatches_per_step"], options.microbatches.size());
    for (size_t i = 0; i < options.microbatches.size(); ++i) {
      const auto& labels = options.microbatches[i].labels;
      CHECK_EQ(training["label_counts"][i],
               labels.size() - std::count(labels.begin(), labels.end(), kNoLabel));
    }
    options.adamw.beta1 = optimizer["betas"][0];
    options.adamw.beta2 = optimizer["betas"][1];
    options.adamw.eps = optimizer["eps"];
    options.adamw.weight_decay = optimizer["weight_decay"];
    options.clip_norm = training["gradient_clip"]["max_norm"];
    options.lr = [log = training["log"]](int64_t step) { return double{log[step - 1]["lr"]}; };
  }

  std::vector<float> Initial(const std::string& tensor, const Shape& shape) const {
    std::vector<float> values(ElementCount(shape));
    const Status status = model->Read(tensor, Box::Whole(shape), values.data());
    CHECK(status.ok()) << status.message();
    return values;
  }

  // Elements whose gradient is zero by algebra: [from, to) of the flat tensor, by name.
  std::vector<std::pair<int64_t, int64_t>> ZeroSlices(const std::string& tensor,
                                                      int64_t elements) const {
    std::vector<std::pair<int64_t, int64_t>> slices;
    const auto& zero = expected_json["zero_gradient"];
    for (const auto& other : zero["tensors"]) {
      if (other == tensor) slices.push_back({0, elements});
    }
    if (zero["slices"].contains(tensor)) {
      for (const auto& range : zero["slices"][tensor]) slices.push_back({range[0], range[1]});
    }
    return slices;
  }
  static bool In(const std::vector<std::pair<int64_t, int64_t>>& slices, int64_t i) {
    return std::any_of(slices.begin(), slices.end(),
                       [&](auto slice) { return slice.first <= i && i < slice.second; });
  }
};

TEST_F(FixtureTest, LogitsAreThoseOfTheReference) {
  for (const fs::path& folder : Folders()) {
    SCOPED_TRACE(folder);
    const Fixture fixture(folder);
    auto model = LanguageModel::Load((folder / "model").string(), {DType::kF32, 2, kGpu});
    ASSERT_TRUE(model.ok()) << model.status().message();
    const TokenShape tokens = fixture.options.tokens;
    LanguageModel::Session session(model.value().get(), tokens.batch, tokens.length);
    const Tensor logits = session.AppendWithAllLogits(fixture.options.microbatches[0].ids);
    const auto expected = TensorFile::Open(folder / "expected.safetensors").Read<float>("logits");
    ASSERT_EQ(logits.elements(), static_cast<int64_t>(expected.size()));
    double worst = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      worst = std::max(worst, std::abs(double{logits.as<float>()[i]} - expected[i]));
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
      const auto zero = fixture.ZeroSlices(name, static_cast<int64_t>(reference.size()));
      double largest = 0, worst = 0;
      for (size_t i = 0; i < reference.size(); ++i) {
        largest = std::max(largest, std::abs(double{reference[i]}));
        if (Fixture::In(zero, static_cast<int64_t>(i))) continue;
        worst = std::max(worst, std::abs(double{gradient[i]} - reference[i]));
      }
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
    const auto training = ReadJson(folder / "training.json");
    fixture.SetTraining(training);
    const HarnessResult result = RunHarness(fixture.options);
    ASSERT_TRUE(result.status.ok()) << result.status.message();
    const Tolerances tolerance = tolerances_.at(fixture.name);
    for (int step = 0; step < fixture.options.steps; ++step) {
      const auto& log = training["log"][step];
      EXPECT_NEAR(result.losses[step] / double{log["loss"]}, 1.0, tolerance.train_loss) << step;
      EXPECT_NEAR(result.norms[step] / double{log["grad_norm"]}, 1.0, tolerance.train_norm) << step;
    }
    const TensorFile trained = TensorFile::Open(folder / "trained.safetensors");
    EXPECT_EQ(trained.reader->header().tensors.size(), fixture.model->tensors().size());
    double difference = 0, moved = 0, worst = 0;
    for (const SafetensorsTensor& tensor : trained.reader->header().tensors) {
      const auto reference = trained.Read<float>(tensor.name);
      const auto start = fixture.Initial(tensor.name, tensor.shape);
      const auto& ours = result.state.at(tensor.name);
      const auto zero = fixture.ZeroSlices(tensor.name, static_cast<int64_t>(reference.size()));
      for (size_t i = 0; i < reference.size(); ++i) {
        if (Fixture::In(zero, static_cast<int64_t>(i))) continue;
        const double error = double{ours[i]} - reference[i];
        difference += error * error;
        moved += std::pow(double{reference[i]} - start[i], 2);
        worst = std::max(worst, std::abs(error));
      }
    }
    EXPECT_LE(std::sqrt(difference / moved), tolerance.update);
    EXPECT_LE(worst, tolerance.param);
  }
}

TEST_F(FixtureTest, GreedyDecodingIsThatOfTheReference) {
  for (const fs::path& folder : TrainedFolders()) {
    SCOPED_TRACE(folder);
    const auto generation = ReadJson(folder / "generation.json");
    auto model = LanguageModel::Load((folder / "model").string(), {DType::kF32, 1, kGpu});
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
