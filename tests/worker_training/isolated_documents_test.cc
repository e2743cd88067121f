// Documents packed into one sequence and isolated train a model as they would one by one.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "cluster/base/rng.h"
#include "tests/harness/training_harness.h"
#include "tests/worker_training/token_files.h"
#include "worker/kernels/cross_entropy.h"

namespace trireme {
namespace {

constexpr int64_t kLength = 150, kVocabulary = 31;

ModelShape ShapeOf(ModelFamily family) {
  ModelShape shape;
  shape.family = family;
  shape.vocab_size = kVocabulary;
  shape.hidden_size = 16;
  shape.intermediate_size = 32;
  shape.layers = 2;
  shape.heads = 4;
  shape.kv_heads = family == ModelFamily::kLlama ? 2 : 4;
  shape.head_dim = 4;
  shape.max_positions = kLength;
  shape.tied = shape.attention_bias = shape.mlp_bias = family == ModelFamily::kGpt2;
  return shape;
}

// One step on these sequences of kLength tokens. Weights large enough for tokens to matter to each
// other.
HarnessResult Train(ModelFamily family, std::vector<HarnessBatch> microbatches) {
  HarnessOptions options;
  options.shape = ShapeOf(family);
  options.tokens = {1, kLength};
  options.microbatches = std::move(microbatches);
  options.initial = [](const ParameterSpec& spec, const Box& box, float* out) {
    FillInitialValues(spec, 1, box, out);
    if (spec.published_shape.size() < 2) return OkStatus();
    for (int64_t i = 0; i < box.elements(); ++i) out[i] *= 15;
    return OkStatus();
  };
  return RunHarness(options);
}

HarnessBatch Packed(const Microbatch& data) {
  HarnessBatch batch{Values(data.ids), Values(data.labels), Values(data.places.positions), {}};
  if (data.places.document_starts.defined()) {
    batch.document_starts = Values(data.places.document_starts);
  }
  return batch;
}

class IsolatedDocumentsTest : public testing::TestWithParam<ModelFamily> {
 protected:
  // The second window begins within the fifth document.
  IsolatedDocumentsTest() {
    const CounterRng rng(3, RngUse::kTest, 0);
    std::vector<Ids> documents;
    int64_t n = 0;
    for (const int64_t length : {37, 1, 2, 70, 64, 5, 171}) {
      Ids& document = documents.emplace_back();
      begins_.insert(n);
      while (std::ssize(document) < length) {
        document.push_back(static_cast<int32_t>(rng.Below(kVocabulary, n++)));
      }
    }
    WriteTokens(folder_ / "train", documents);
  }
  // The file's first two windows.
  std::vector<HarnessBatch> Windows(bool isolate) {
    const auto feed = OpenFeed({.train = {folder_ / "train"},
                                .length = kLength,
                                .sequences = 2,
                                .rows = 1,
                                .vocab_size = kVocabulary,
                                .isolate = isolate})
                          .value();
    EXPECT_TRUE(feed->LoadStep(1, std::vector<MicrobatchId>{0, 1}).ok());
    return {Packed(feed->Get(0)), Packed(feed->Get(1))};
  }
  // Each document of these windows as a sequence of its own, filled up without labels.
  std::vector<HarnessBatch> Apart(const std::vector<HarnessBatch>& windows) const {
    std::vector<HarnessBatch> documents;
    int64_t at = 0;
    for (int64_t n = 0; n < std::ssize(windows) * kLength; ++n) {
      const int64_t t = n % kLength;
      if (t == 0 || begins_.contains(n)) {
        documents.push_back({Ids(kLength, 0), Ids(kLength, kNoLabel), {}, {}});
        at = 0;
      }
      documents.back().ids[at] = windows[n / kLength].ids[t];
      documents.back().labels[at++] = windows[n / kLength].labels[t];
    }
    return documents;
  }

  TemporaryFolder folder_;
  std::set<int64_t> begins_;  // of documents, in the stream
};

TEST_P(IsolatedDocumentsTest, LossAndGradientsAreThoseOfTheDocumentsApart) {
  const std::vector<HarnessBatch> apart = Apart(Windows(true));
  ASSERT_EQ(apart.size(), 5u + 3u);
  const HarnessResult reference = Train(GetParam(), apart);
  const HarnessResult packed = Train(GetParam(), Windows(true));
  const HarnessResult joined = Train(GetParam(), Windows(false));
  for (const HarnessResult* result : {&reference, &packed, &joined}) {
    ASSERT_TRUE(result->status.ok()) << result->status.message();
  }
  EXPECT_NEAR(packed.losses[0], reference.losses[0], 1e-6 * reference.losses[0]);
  EXPECT_GT(std::abs(joined.losses[0] - reference.losses[0]), 1e-3) << "they would matter";
  ASSERT_EQ(packed.gradients.size(), reference.gradients.size());
  for (const auto& [name, expected] : reference.gradients) {
    const std::vector<float>& gradient = packed.gradients.at(name);
    ASSERT_EQ(gradient.size(), expected.size()) << name;
    double worst = 0, largest = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      worst = std::max<double>(worst, std::abs(gradient[i] - expected[i]));
      largest = std::max<double>(largest, std::abs(expected[i]));
    }
    EXPECT_LE(worst, 1e-5 * largest) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, IsolatedDocumentsTest,
                         testing::Values(ModelFamily::kLlama, ModelFamily::kGpt2),
                         [](const auto& info) {
                           return info.param == ModelFamily::kLlama ? "Llama" : "Gpt2";
                         });

}  // namespace
}  // namespace trireme
