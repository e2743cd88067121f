// Models that run with their memory on a GPU: the SIMT backend's device memory crashes whatever on
// the host touches it, so these show that nothing does, and that decoding, scoring and generation
// give what the CPU's kernels give.
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "cluster/device/gpu_info.h"
#include "proto/config.pb.h"
#include "tests/worker_model_io/model_files.h"
#include "worker/evaluation/perplexity.h"
#include "worker/evaluation/scoring.h"
#include "worker/inference/generator.h"
#include "worker/kernels/cross_entropy.h"

namespace trireme {
namespace {

using Ids = std::vector<int32_t>;

Ids SomeIds(int64_t count, int64_t vocab, int salt = 0) {
  Ids ids(count);
  for (int64_t i = 0; i < count; ++i) ids[i] = static_cast<int32_t>((i * 7 + i * i + salt) % vocab);
  return ids;
}

// A model with random weights, opened on both devices.
class CudaInferenceTest : public testing::TestWithParam<std::tuple<bool, DType>> {
 protected:
  void SetUp() override {
    const auto gpus = Gpus();
    if (!gpus.ok()) GTEST_SKIP() << gpus.status().message();
    std::string name = (std::filesystem::temp_directory_path() / "cuda_inference_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    const auto& [llama, dtype] = GetParam();
    const proto::ModelConfig config = llama ? SmallLlama() : SmallGpt2();
    NamedTensors weights = RandomWeights(config);
    for (auto& [tensor, content] : weights) {
      if (content.shape.size() < 2) continue;
      for (float& value : content.values) value *= 0.25f;  // logits of a few units
    }
    WriteHuggingFace(folder_, config, weights);
    cpu_ = Open({.compute = dtype});
    gpu_ = Open({.compute = dtype, .gpu = Gpu{0}});
    // bf16: a few of its roundings, whose places differ.
    tolerance_ = dtype == DType::kF32 ? 2e-5 : 0.08;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<LanguageModel> Open(const LanguageModel::Options& options) {
    auto model = LanguageModel::Load(folder_, options);
    EXPECT_TRUE(model.ok()) << model.status().message();
    return std::move(model).value();
  }
  int64_t vocab() const { return cpu_->shape().vocab_size; }
  void ExpectNear(const Tensor& gpu, const Tensor& cpu) const {
    ASSERT_EQ(gpu.device(), DeviceKind::kCpu);
    ASSERT_EQ(gpu.shape(), cpu.shape());
    double worst = 0, size = 0;
    for (int64_t i = 0; i < cpu.elements(); ++i) {
      worst = std::max<double>(worst, std::abs(gpu.as<float>()[i] - cpu.as<float>()[i]));
      size = std::max<double>(size, std::abs(cpu.as<float>()[i]));
    }
    EXPECT_GT(size, 0.1);
    EXPECT_LE(worst, tolerance_);
  }

  std::string folder_;
  double tolerance_ = 0;
  std::unique_ptr<LanguageModel> cpu_, gpu_;
};
INSTANTIATE_TEST_SUITE_P(All, CudaInferenceTest,
                         testing::Combine(testing::Bool(),
                                          testing::Values(DType::kF32, DType::kBF16)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param) ? "Llama" : "Gpt2") +
                                  (std::get<1>(info.param) == DType::kF32 ? "F32" : "BF16");
                         });

TEST_P(CudaInferenceTest, CachedDecodingFollowsTheCpu) {
  constexpr int64_t kBatch = 3;
  LanguageModel::Session cpu(cpu_.get(), kBatch, 14), gpu(gpu_.get(), kBatch, 14);
  int salt = 0;
  const auto append = [&](int64_t length) {
    SCOPED_TRACE(testing::Message() << length << " after " << cpu.length());
    const Ids ids = SomeIds(kBatch * length, vocab(), ++salt);
    ExpectNear(gpu.Append(ids), cpu.Append(ids));
    EXPECT_EQ(gpu.length(), cpu.length());
  };
  for (const int64_t length : {5, 1, 2, 1}) append(length);
  const int parents[] = {2, 2, 0};
  cpu.Reorder(parents);
  gpu.Reorder(parents);
  append(1);
  cpu.Truncate(4);
  gpu.Truncate(4);
  append(3);
  const Ids rest = SomeIds(kBatch * 6, vocab());
  ExpectNear(gpu.AppendWithAllLogits(rest), cpu.AppendWithAllLogits(rest));
}

// Sequences that have grown apart go on as if each had been alone.
TEST_P(CudaInferenceTest, ReorderMovesTheCacheAndNothingElse) {
  LanguageModel::Session one(gpu_.get(), 2, 8), other(gpu_.get(), 2, 8);
  const Ids a = SomeIds(5, vocab(), 1), b = SomeIds(5, vocab(), 2);
  Ids ab = a, ba = b;
  ab.insert(ab.end(), b.begin(), b.end());
  ba.insert(ba.end(), a.begin(), a.end());
  one.Append(ab);
  other.Append(ba);
  const int swap[] = {1, 0};
  one.Reorder(swap);
  const Ids next = {3, 4};
  const Tensor x = one.Append(next), y = other.Append(next);
  EXPECT_EQ(std::vector<float>(x.as<float>(), x.as<float>() + x.elements()),
            std::vector<float>(y.as<float>(), y.as<float>() + y.elements()));
}

TEST_P(CudaInferenceTest, LossesOfTokensAreTheCpus) {
  for (const auto& [batch, length] : {std::pair<int64_t, int64_t>(2, 7), {1, 3}, {3, 16}}) {
    const Ids ids = SomeIds(batch * length, vocab());
    Ids labels = SomeIds(batch * length, vocab(), 5);
    labels[1] = kNoLabel;
    const std::vector<float> cpu = cpu_->TokenLosses(batch, length, ids, labels);
    const std::vector<float> gpu = gpu_->TokenLosses(batch, length, ids, labels);
    ASSERT_EQ(gpu.size(), cpu.size());
    for (size_t i = 0; i < cpu.size(); ++i) EXPECT_NEAR(gpu[i], cpu[i], tolerance_) << i;
    EXPECT_EQ(gpu[1], 0);
    EXPECT_EQ(gpu_->TokenLosses(batch, length, ids, labels), gpu);
  }
}

TEST_P(CudaInferenceTest, PerplexityAndScoresAreTheCpus) {
  const Ids ids = SomeIds(40, vocab());
  TokenStream stream;
  stream.tokens = static_cast<int64_t>(ids.size());
  stream.read = [&](int64_t begin, std::span<int32_t> out) {
    std::copy_n(ids.begin() + begin, out.size(), out.begin());
  };
  PerplexityOptions options;
  options.length = 8;
  const auto cpu = EvaluatePerplexity(cpu_.get(), stream, nullptr, options);
  const auto gpu = EvaluatePerplexity(gpu_.get(), stream, nullptr, options);
  ASSERT_TRUE(cpu.ok() && gpu.ok());
  EXPECT_EQ(gpu->tokens, 39);
  EXPECT_NEAR(gpu->nll_sum, cpu->nll_sum, tolerance_ * 39);
  const Ids context = SomeIds(4, vocab()), continuation = SomeIds(6, vocab(), 3);
  const auto on_cpu = ScoreContinuation(cpu_.get(), context, continuation);
  const auto on_gpu = ScoreContinuation(gpu_.get(), context, continuation);
  ASSERT_TRUE(on_cpu.ok() && on_gpu.ok());
  for (size_t i = 0; i < continuation.size(); ++i) {
    EXPECT_NEAR(on_gpu->token_logprobs[i], on_cpu->token_logprobs[i], 2 * tolerance_) << i;
  }
}

TEST_P(CudaInferenceTest, GeneratesTheTokensOfTheCpu) {
  // Rounding to bf16 may turn a near tie; f32 alone must agree for many tokens.
  const bool f32 = std::get<1>(GetParam()) == DType::kF32;
  GenerationOptions options;
  options.tokens_max = f32 ? 10 : 3;
  for (const int beams : {1, 3}) {
    options.beams = beams;
    options.sampling.temperature = 0;
    const Ids prompt = SomeIds(4, vocab(), 9);
    const auto cpu = Generate(cpu_.get(), nullptr, prompt, options);
    const auto gpu = Generate(gpu_.get(), nullptr, prompt, options);
    ASSERT_TRUE(cpu.ok()) << cpu.status().message();
    ASSERT_TRUE(gpu.ok()) << gpu.status().message();
    EXPECT_EQ(gpu->ids, cpu->ids) << beams << " beams";
    EXPECT_EQ(gpu->ids.size(), static_cast<size_t>(options.tokens_max));
    for (size_t i = 0; i < cpu->logprobs.size(); ++i) {
      EXPECT_NEAR(gpu->logprobs[i], cpu->logprobs[i], 2 * tolerance_) << i;
    }
  }
}

// More tokens than a pass takes.
TEST_P(CudaInferenceTest, LongPromptsGoInSeveralPasses) {
  if (std::get<1>(GetParam()) != DType::kF32) return;
  const int64_t batch = 171, length = 3;  // 512 / 171: two tokens a pass
  LanguageModel::Session cpu(cpu_.get(), batch, length), gpu(gpu_.get(), batch, length);
  const Ids ids = SomeIds(batch * length, vocab());
  ExpectNear(gpu.AppendWithAllLogits(ids), cpu.AppendWithAllLogits(ids));
}

// Published weights of a model with 260K parameters.
TEST(CudaStoriesTest, TheFirstGreedyTokensAreTheCpus) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  const auto path =
      std::filesystem::path(shared) / "data" / "weights_stories260k" / "stories260K.bin";
  ASSERT_TRUE(std::filesystem::exists(path)) << path << " is missing";
  if (const auto gpus = Gpus(); !gpus.ok()) GTEST_SKIP() << gpus.status().message();
  GenerationOptions options;
  options.sampling.temperature = 0;
  options.tokens_max = 16;
  std::vector<Generation> generations;
  for (const std::optional<Gpu> gpu : {std::optional<Gpu>(), std::optional<Gpu>(Gpu{0})}) {
    const auto model = LanguageModel::Load(path.string(), {.gpu = gpu});
    ASSERT_TRUE(model.ok()) << model.status().message();
    auto result = Generate(model->get(), nullptr, {1}, options);
    ASSERT_TRUE(result.ok()) << result.status().message();
    generations.push_back(std::move(result).value());
  }
  EXPECT_EQ(generations[1].ids, generations[0].ids);
}

}  // namespace
}  // namespace trireme
