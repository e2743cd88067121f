// The fixtures' folders: PyTorch's numbers for tiny models. Models come through WeightSource, as in
// a run.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "storage/safetensors.h"
#include "tests/harness/training_harness.h"
#include "worker/model/weight_source.h"

namespace trireme {

// TRIREME_TEST_GPU: the same on GPU 0 (tests/cuda_fixtures).
#ifdef TRIREME_TEST_GPU
inline constexpr DeviceKind kFixtureDevice = DeviceKind::kCuda;
inline const std::optional<Gpu> kFixtureGpu = Gpu{0};
#else
inline constexpr DeviceKind kFixtureDevice = DeviceKind::kCpu;
inline const std::optional<Gpu> kFixtureGpu;
#endif

// "Recommended for an f32 implementation": the table of the fixtures' README, read from it. A "-"
// in it: this family has no training run, and no decoding on record.
struct Tolerances {
  double logits, loss, gradients, train_loss, train_norm, update, param;

  bool trained() const { return train_loss > 0; }
};

nlohmann::json ReadFixtureJson(const std::filesystem::path& path);

// All tensors of a safetensors file, as f32 or whole numbers.
struct TensorFile {
  std::unique_ptr<ObjectStore> store;
  std::unique_ptr<SafetensorsReader> reader;

  static TensorFile Open(const std::filesystem::path& path);
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

// Skips where TRIREME_SHARED is not set, fails where a file is missing.
class FixtureTest : public testing::Test {
 protected:
  void SetUp() override;
  // Folders of the README's table with a model of a family that is built; at least one a family.
  std::vector<std::filesystem::path> Folders() const;
  // Those with a training run and with decoding.
  std::vector<std::filesystem::path> TrainedFolders() const;

  std::filesystem::path root_;
  std::map<std::string, Tolerances> tolerances_;
};

// A fixture folder opened: its model, batches and expectations.
struct Fixture {
  std::filesystem::path folder;
  std::string name;
  std::unique_ptr<WeightSource> model;
  HarnessOptions options;
  nlohmann::json expected_json;

  explicit Fixture(const std::filesystem::path& folder);
  // Of batch 0, as commands load and run a model. Empty after a failure, which it tells.
  std::vector<float> Logits(DType compute) const;
  void ReadBatch(const TensorFile& batches, const std::string& prefix);
  // The run of training.json.
  void SetTraining(const nlohmann::json& training);
  std::vector<float> Initial(const std::string& tensor, const Shape& shape) const;
  // Elements whose gradient is zero by algebra: [from, to) of the flat tensor, by name.
  std::vector<std::pair<int64_t, int64_t>> ZeroSlices(const std::string& tensor,
                                                      int64_t elements) const;
  // Calls visit(i) for the elements of a tensor but those.
  void ForEachElement(const std::string& tensor, size_t elements,
                      const std::function<void(size_t i)>& visit) const;
  // The run of training.json in `compute`; elements of the weights at its end go to visit(ours,
  // reference, initial). Without losses after a failure, which it tells.
  HarnessResult Train(
      const nlohmann::json& training, DType compute,
      const std::function<void(double ours, double reference, double initial)>& visit);
};

}  // namespace trireme
