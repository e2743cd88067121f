#include "tests/worker_model/fixtures.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "worker/inference/generator.h"
#include "worker/kernels/cross_entropy.h"
#include "worker/model/model_config.h"

namespace trireme {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

nlohmann::json ReadFixtureJson(const fs::path& path) {
  std::ifstream in(path);
  CHECK(in) << path << " is missing";
  nlohmann::json json = nlohmann::json::parse(in, nullptr, false);
  CHECK(!json.is_discarded()) << path << " is not JSON";
  return json;
}

TensorFile TensorFile::Open(const fs::path& path) {
  TensorFile file;
  file.store = NewLocalStore(path.parent_path());
  auto reader = SafetensorsReader::Open(*file.store, path.filename());
  CHECK(reader.ok()) << reader.status().message();
  file.reader = std::move(reader).value();
  return file;
}

void FixtureTest::SetUp() {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  root_ = fs::path(shared) / "fixtures";
  ASSERT_TRUE(fs::exists(root_ / "README.md")) << root_ << " is missing";
  tolerances_ = ReadTolerances(root_ / "README.md");
}

std::vector<fs::path> FixtureTest::Folders() const {
  std::vector<fs::path> folders;
  std::set<std::string> missing(BuiltModelFamilies().begin(), BuiltModelFamilies().end());
  const std::set<std::string> built = missing;
  for (const auto& [name, tolerances] : tolerances_) {
    const std::string family =
        ReadFixtureJson(root_ / name / "model" / "config.json").value("model_type", "");
    if (!built.contains(family)) continue;
    folders.push_back(root_ / name);
    missing.erase(family);
  }
  EXPECT_TRUE(missing.empty()) << root_ << " has no folder of " << *missing.begin();
  return folders;
}

std::vector<fs::path> FixtureTest::TrainedFolders() const {
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

Fixture::Fixture(const fs::path& folder) : folder(folder), name(folder.filename()) {
  auto opened = WeightSource::Open((folder / "model").string());
  CHECK(opened.ok()) << opened.status().message();
  model = std::move(opened).value();
  options.shape = ModelShape::From(model->config());
  options.device = kFixtureDevice;
  options.initial = [this](const ParameterSpec& spec, const Box& box, float* out) {
    return model->Read(spec.name, spec.shape, box, out);
  };
  expected_json = ReadFixtureJson(folder / "expected.json");
  const TensorFile batches = TensorFile::Open(folder / "batch.safetensors");
  for (int i = 0; batches.reader->Find(StrCat("batch", i, ".input_ids")) != nullptr; ++i) {
    ReadBatch(batches, StrCat("batch", i, "."));
  }
  CHECK(!options.microbatches.empty()) << folder << " has no batches";
}

std::vector<float> Fixture::Logits(DType compute) const {
  auto model = LanguageModel::Load((folder / "model").string(), {compute, 2, kFixtureGpu});
  EXPECT_TRUE(model.ok()) << model.status().message();
  if (!model.ok()) return {};
  LanguageModel::Session session(model->get(), options.tokens.batch, options.tokens.length);
  const Tensor logits = session.AppendWithAllLogits(options.microbatches[0].ids);
  return {logits.as<float>(), logits.as<float>() + logits.elements()};
}

void Fixture::ReadBatch(const TensorFile& batches, const std::string& prefix) {
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

void Fixture::SetTraining(const nlohmann::json& training) {
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

std::vector<float> Fixture::Initial(const std::string& tensor, const Shape& shape) const {
  std::vector<float> values(ElementCount(shape));
  const Status status = model->Read(tensor, Box::Whole(shape), values.data());
  CHECK(status.ok()) << status.message();
  return values;
}

std::vector<std::pair<int64_t, int64_t>> Fixture::ZeroSlices(const std::string& tensor,
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

void Fixture::ForEachElement(const std::string& tensor, size_t elements,
                             const std::function<void(size_t i)>& visit) const {
  const auto zero = ZeroSlices(tensor, static_cast<int64_t>(elements));
  for (size_t i = 0; i < elements; ++i) {
    const auto at = static_cast<int64_t>(i);
    const bool is_zero = std::any_of(zero.begin(), zero.end(), [at](const auto& slice) {
      return slice.first <= at && at < slice.second;
    });
    if (!is_zero) visit(i);
  }
}

HarnessResult Fixture::Train(const nlohmann::json& training, DType compute,
                             const std::function<void(double, double, double)>& visit) {
  SetTraining(training);
  options.compute = compute;
  HarnessResult result = RunHarness(options);
  EXPECT_TRUE(result.status.ok()) << result.status.message();
  if (!result.status.ok()) return {};
  const TensorFile trained = TensorFile::Open(folder / "trained.safetensors");
  EXPECT_EQ(trained.reader->header().tensors.size(), model->tensors().size());
  for (const SafetensorsTensor& tensor : trained.reader->header().tensors) {
    const auto reference = trained.Read<float>(tensor.name);
    const auto start = Initial(tensor.name, tensor.shape);
    const auto& ours = result.state.at(tensor.name);
    ForEachElement(tensor.name, reference.size(),
                   [&](size_t i) { visit(ours[i], reference[i], start[i]); });
  }
  return result;
}

}  // namespace trireme
