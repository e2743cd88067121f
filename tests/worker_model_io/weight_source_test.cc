#include "worker/model/weight_source.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "proto/config.pb.h"
#include "storage/checkpoint_writer.h"
#include "storage/safetensors.h"
#include "tests/storage/temporary_folder.h"
#include "tests/worker_model_io/model_files.h"
#include "worker/model/model_config.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

std::string OpenError(const std::string& model, StatusCode code = StatusCode::kDataLoss) {
  const auto source = WeightSource::Open(model);
  if (source.ok()) return "ok";
  EXPECT_EQ(source.status().code(), code) << source.status().message();
  return source.status().message();
}

// All tensors of `model` equal `expected`, whole and in boxes of a view.
void ExpectWeights(const std::string& model, const NamedTensors& expected) {
  const auto source = WeightSource::Open(model);
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_EQ((*source)->tensors().size(), expected.size());
  for (const auto& [name, tensor] : expected) {
    std::vector<float> values(tensor.values.size());
    const Status status = (*source)->Read(name, Box::Whole(tensor.shape), values.data());
    ASSERT_TRUE(status.ok()) << status.message();
    ASSERT_EQ(values, tensor.values) << name;
    Box part = Box::Whole(tensor.shape);
    for (int d = 0; d < part.rank(); ++d) {
      part.offset[d] = part.extent[d] / 3;
      part.extent[d] = part.extent[d] - part.offset[d] - part.extent[d] / 4;
    }
    values.assign(part.elements(), -1);
    std::vector<float> wanted = values;
    ASSERT_TRUE((*source)->Read(name, part, values.data()).ok());
    CopyRegion(part, Box::Whole(tensor.shape), std::as_bytes(std::span(tensor.values)).data(), part,
               std::as_writable_bytes(std::span(wanted)).data(), 4);
    ASSERT_EQ(values, wanted) << name << part.ToString();
  }
}

TEST(WeightSourceTest, HuggingFaceFoldersAreReadInEveryFloatingPointType) {
  for (const auto& config : {SmallLlama(), SmallGpt2()}) {
    const NamedTensors weights = RandomWeights(config);
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF64}) {
      const TemporaryFolder folder;
      WriteHuggingFace(folder.path(), config, weights, dtype);
      ExpectWeights(folder.path(), weights);
      EXPECT_EQ((*WeightSource::Open(folder.path()))->tensors()[0].dtype, dtype);
    }
  }
}

TEST(WeightSourceTest, Gpt2IsReadWithAndWithoutPrefixAndWithItsBuffers) {
  const auto config = SmallGpt2();
  const NamedTensors weights = RandomWeights(config);
  NamedTensors published;
  for (const auto& [name, tensor] : weights) {
    published[name.substr(std::string("transformer.").size())] = tensor;
  }
  published["h.0.attn.bias"] = {{1, 1, 16, 16}, std::vector<float>(256, 1)};
  published["h.0.attn.masked_bias"] = {{}, {-1e4f}};
  published["lm_head.weight"] = {{29, 8}, std::vector<float>(29 * 8, 9)};
  const TemporaryFolder folder;
  WriteHuggingFace(folder.path(), config, published);
  ExpectWeights(folder.path(), weights);
  const auto source = WeightSource::Open(folder.path());
  // The names of the file work too, and the tied head is the embedding.
  std::vector<float> row(8);
  for (const char* name : {"wte.weight", "transformer.wte.weight", "lm_head.weight"}) {
    ASSERT_TRUE((*source)->Read(name, {{3, 0}, {1, 8}}, row.data()).ok());
    const auto& table = weights.at("transformer.wte.weight").values;
    EXPECT_EQ(row, std::vector<float>(table.begin() + 24, table.begin() + 32)) << name;
  }
}

TEST(WeightSourceTest, BoxesOfAFusedViewAreRead) {
  const auto config = SmallGpt2();
  const NamedTensors weights = RandomWeights(config);
  const TemporaryFolder folder;
  WriteHuggingFace(folder.path(), config, weights);
  const auto source = WeightSource::Open(folder.path());
  const std::string name = "transformer.h.1.attn.c_attn.weight";
  const Shape view = {8, 3, 8};
  const Box box{{0, 0, 4}, {8, 3, 4}};
  std::vector<float> values(box.elements()), expected(box.elements());
  ASSERT_TRUE((*source)->Read(name, view, box, values.data()).ok());
  CopyRegion(box, Box::Whole(view), std::as_bytes(std::span(weights.at(name).values)).data(), box,
             std::as_writable_bytes(std::span(expected)).data(), 4);
  EXPECT_EQ(values, expected);
  EXPECT_THAT((*source)->Read(name, {7, 3, 8}, Box::Whole({7, 3, 8}), values.data()).message(),
              HasSubstr(name + " is [8, 24], expected [7, 3, 8]"));
}

TEST(WeightSourceTest, Llama2cFilesAreHuggingFaceWeightsWithRotatedRows) {
  for (const bool tied : {true, false}) {
    const auto config = SmallLlama(tied);
    const NamedTensors weights = RandomWeights(config);
    const TemporaryFolder folder;
    WriteLlama2c(folder / "model.bin", config, weights);
    ExpectWeights(folder / "model.bin", weights);
    const auto source = WeightSource::Open(folder / "model.bin");
    EXPECT_EQ((*source)->config().tie_word_embeddings(), tied);
    EXPECT_EQ((*source)->config().head_dim(), 4);
    EXPECT_EQ((*source)->training_length(), 32);
    EXPECT_THAT((*source)->end_ids(), ElementsAre(1, 2));
  }
}

TEST(WeightSourceTest, LlmcFilesAreHuggingFaceWeightsTransposedAndPadded) {
  const auto config = SmallGpt2();
  const NamedTensors weights = RandomWeights(config);
  for (const int version : {3, 5}) {
    const TemporaryFolder folder;
    WriteLlmc(folder / "gpt2.bin", config, weights, version);
    ExpectWeights(folder / "gpt2.bin", weights);
  }
}

TEST(WeightSourceTest, FilesOfAnotherSizeThanTheirHeaderSaysAreRefused) {
  const TemporaryFolder folder;
  const auto llama = SmallLlama();
  WriteLlama2c(folder / "a.bin", llama, RandomWeights(llama));
  const auto size = fs::file_size(folder / "a.bin");
  fs::resize_file(folder / "a.bin", size - 4);
  EXPECT_EQ(OpenError(folder / "a.bin"),
            StrCat(folder / "a.bin", ": ", size - 4, " bytes, expected ", size,
                   " by its header (llama2.c, version 0): truncated, or another format"));
  fs::resize_file(folder / "a.bin", 20);
  EXPECT_THAT(OpenError(folder / "a.bin"), HasSubstr("a.bin: ends at byte 20"));
  WriteInts(folder / "b.bin", {0, 1, 2, 3, 4, 5, 6});
  EXPECT_EQ(OpenError(folder / "b.bin"), folder / "b.bin: header: dim is 0, expected 1 to 4194304");
  WriteInts(folder / "c.bin", {30, 8, 2, 4, 2, 9, 6});
  EXPECT_THAT(OpenError(folder / "c.bin"), HasSubstr("header: dim 30, n_heads 4"));
  const auto gpt2 = SmallGpt2();
  WriteLlmc(folder / "d.bin", gpt2, RandomWeights(gpt2), 3);
  fs::resize_file(folder / "d.bin", fs::file_size(folder / "d.bin") + 1);
  EXPECT_THAT(OpenError(folder / "d.bin"), HasSubstr("by its header (llm.c, version 3)"));
  WriteLlmc(folder / "d.bin", gpt2, RandomWeights(gpt2), 2);
  EXPECT_THAT(OpenError(folder / "d.bin"),
              HasSubstr("llm.c model of version 2, expected 3 (float32) or 5 (bfloat16)"));
}

TEST(WeightSourceTest, WhatIsMissingOrWrongIsNamed) {
  const TemporaryFolder folder;
  const auto config = SmallLlama();
  const NamedTensors good = RandomWeights(config);
  const std::string file = folder / "model.safetensors";
  const auto error = [&](const std::function<void(NamedTensors*)>& change) {
    NamedTensors weights = good;
    change(&weights);
    WriteHuggingFace(folder.path(), config, weights);
    return OpenError(folder.path());
  };
  EXPECT_EQ(error([](NamedTensors*) {}), "ok");
  EXPECT_EQ(error([](NamedTensors* w) { w->erase("model.layers.1.mlp.up_proj.weight"); }),
            file + ": tensor model.layers.1.mlp.up_proj.weight is missing, expected [24, 16]");
  EXPECT_EQ(error([](NamedTensors* w) {
              (*w)["model.norm.weight"] = {{8}, std::vector<float>(8)};
            }),
            file + ": tensor model.norm.weight is [8], expected [16] by the model's configuration");
  EXPECT_EQ(error([](NamedTensors* w) {
              (*w)["model.embed_tokens.weight"] = {{30, 16}, std::vector<float>(480)};
            }),
            file +
                ": tensor model.embed_tokens.weight is [30, 16], expected [29, 16] by the "
                "model's configuration");
  WriteHuggingFace(folder.path(), config, good);
  fs::resize_file(file, fs::file_size(file) - 1);
  EXPECT_THAT(OpenError(folder.path()), HasSubstr("(truncated)"));
  fs::remove(file);
  EXPECT_EQ(OpenError(folder.path()), file + ": does not exist");
}

TEST(WeightSourceTest, ValuesThatAreNotFiniteAreNamedWithTheirIndex) {
  const TemporaryFolder folder;
  const auto config = SmallLlama();
  NamedTensors weights = RandomWeights(config);
  weights["model.layers.0.mlp.up_proj.weight"].values[5 * 16 + 3] =
      std::numeric_limits<float>::quiet_NaN();
  weights["model.norm.weight"].values[15] = -std::numeric_limits<float>::infinity();
  WriteHuggingFace(folder.path(), config, weights);
  const auto source = WeightSource::Open(folder.path());
  ASSERT_TRUE(source.ok());
  std::vector<float> values(24 * 16);
  const auto read = [&](const std::string& name, const Box& box) {
    const Status status = (*source)->Read(name, box, values.data());
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kDataLoss);
    return status.message();
  };
  const std::string up = "model.layers.0.mlp.up_proj.weight";
  EXPECT_EQ(read(up, Box::Whole({24, 16})), folder / ("model.safetensors: tensor " + up +
                                                      "[5, 3] is nan, expected a finite number"));
  EXPECT_THAT(read(up, {{4, 2}, {3, 3}}), HasSubstr("[5, 3] is nan"));
  EXPECT_EQ(read(up, {{6, 0}, {18, 16}}), "");
  EXPECT_THAT(read("model.norm.weight", Box::Whole({16})), HasSubstr("[15] is -inf"));
}

TEST(WeightSourceTest, OtherFormsAreRefusedByName) {
  const TemporaryFolder folder;
  std::ofstream(folder / "m.gguf") << "GGUF....";
  EXPECT_EQ(OpenError(folder / "m.gguf", StatusCode::kNotBuilt),
            folder / "m.gguf: reading .gguf is not built yet");
  EXPECT_EQ(OpenError("s3://bucket/run", StatusCode::kNotBuilt),
            "store 's3://bucket/run': s3:// is not built yet");
  EXPECT_EQ(OpenError(folder / "none"),
            StrCat("model ", folder / "none", ": no such file or folder"));
  EXPECT_EQ(OpenError(folder.path()),
            StrCat("model ", folder.path(), ": no config.json, no checkpoints"));
  std::ofstream(folder / "text.txt") << "hello";
  EXPECT_THAT(OpenError(folder / "text.txt"), HasSubstr("text.txt: expected a model: "));
  std::ofstream(folder / "config.json") << "{";
  EXPECT_THAT(OpenError(folder.path()), HasSubstr("config.json"));
}

class RunFolderTest : public testing::Test {
 protected:
  void WriteStep(int64_t step, const NamedTensors& weights) {
    std::vector<TensorPiece> pieces;
    for (const auto& [name, tensor] : weights) {
      pieces.push_back({name, DType::kF32, tensor.shape, tensor.shape, Box::Whole(tensor.shape),
                        std::as_bytes(std::span(tensor.values)).data()});
    }
    const auto store = NewLocalStore(run_ / "checkpoints");
    const auto part = WriteCheckpointChunks(*store, {step, 1, 0}, pieces);
    ASSERT_TRUE(part.ok());
    proto::Config config;
    *config.mutable_model() = SmallLlama();
    config.mutable_data()->set_sequence_length(24);
    CheckpointFacts facts;
    facts.step = step;
    facts.config = &config;
    ASSERT_TRUE(CommitCheckpoint(*store, facts, {&*part, 1}).ok());
  }
  NamedTensors Weights(float first) {
    NamedTensors weights = RandomWeights(SmallLlama());
    weights["model.norm.weight"].values[0] = first;
    return weights;
  }
  float First(const std::string& model) {
    const auto source = WeightSource::Open(model);
    EXPECT_TRUE(source.ok()) << source.status().message();
    if (!source.ok()) return -1;
    float value = 0;
    EXPECT_TRUE((*source)->Read("model.norm.weight", {{0}, {1}}, &value).ok());
    return value;
  }

  TemporaryFolder run_;
};

TEST_F(RunFolderTest, ARunIsItsNewestCheckpointThatVerifies) {
  WriteStep(50, Weights(50));
  WriteStep(100, Weights(100));
  std::ofstream(run_ / "tokenizer.json") << "{}";
  ExpectWeights(run_.path(), Weights(100));
  EXPECT_EQ(First(run_.path() + "@50"), 50);
  EXPECT_EQ(First("file://" + run_.path() + "/checkpoints@50"), 50);
  EXPECT_EQ(First(run_ / "checkpoints/step_00000050"), 50);
  const auto source = WeightSource::Open(run_.path());
  EXPECT_EQ((*source)->step(), 100);
  EXPECT_EQ((*source)->training_length(), 24);
  EXPECT_EQ((*source)->tokenizer_path(), run_ / "tokenizer.json");

  // A flipped bit: the next older one.
  const std::string chunk = run_ / "checkpoints/step_00000100/rank_00000_0.safetensors";
  std::fstream file(chunk, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-1, std::ios::end);
  file.put('\x7f');
  file.close();
  EXPECT_EQ(First(run_.path()), 50);
  EXPECT_THAT(OpenError(run_.path() + "@100", StatusCode::kStorage), HasSubstr(": checksum "));
  fs::remove(run_ / "checkpoints/step_00000050/manifest.json");
  EXPECT_THAT(OpenError(run_.path(), StatusCode::kStorage),
              HasSubstr("none of 2 checkpoints verifies"));
  EXPECT_THAT(OpenError(run_.path() + "@50", StatusCode::kStorage),
              HasSubstr("step_00000050/manifest.json: does not exist"));
}

TEST_F(RunFolderTest, TheRunsTokenizerSaysWhichTokenEndsAText) {
  WriteStep(50, Weights(50));
  EXPECT_THAT((*WeightSource::Open(run_.path()))->end_ids(), ElementsAre(2)) << "llama's default";
  std::ofstream(run_ / "tokenizer.json")
      << R"({"added_tokens":[{"id":0,"content":"<|endoftext|>","special":true}]})";
  const auto source = WeightSource::Open(run_.path());
  EXPECT_THAT((*source)->end_ids(), ElementsAre(0));
  EXPECT_EQ((*source)->config().eos_token_id(), 0);
  EXPECT_EQ((*source)->config().bos_token_id(), -1);
}

TEST_F(RunFolderTest, TheStoreThatTheRunNamesIsRead) {
  WriteStep(50, Weights(50));
  const TemporaryFolder elsewhere;
  fs::rename(run_ / "checkpoints", elsewhere / "store");
  std::ofstream(run_ / "config.yaml")
      << "run:\n  dir: x\ncheckpoint:\n  every_steps: 5\n  store: \"" << elsewhere / "store"
      << "\"\n  keep: 3\n";
  EXPECT_EQ(First(run_.path()), 50);
  std::ofstream(run_ / "config.yaml") << "checkpoint: {store: " << elsewhere / "store"
                                      << ", keep: 3}\n";
  EXPECT_EQ(First(run_.path()), 50);
}

// Every fixture of a family that is built, as it lies there.
TEST(WeightSourceFixtureTest, HuggingFaceFixturesAreRead) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  std::set<std::string> missing(BuiltModelFamilies().begin(), BuiltModelFamilies().end());
  for (const auto& entry : fs::directory_iterator(fs::path(shared) / "fixtures")) {
    const std::string folder = (entry.path() / "model").string();
    if (!fs::exists(folder + "/config.json")) continue;
    const auto source = WeightSource::Open(folder);
    if (source.status().code() == StatusCode::kNotBuilt ||
        source.status().code() == StatusCode::kInvalidArgument) {
      continue;  // another family
    }
    ASSERT_TRUE(source.ok()) << source.status().message();
    const auto store = NewLocalStore(folder);
    const auto file = SafetensorsReader::Open(*store, "model.safetensors");
    ASSERT_TRUE(file.ok());
    EXPECT_EQ((*source)->tensors().size(), (*file)->header().tensors.size());
    for (const TensorInfo& info : (*source)->tensors()) {
      std::vector<float> a(ElementCount(info.shape)), b(a.size());
      ASSERT_TRUE((*source)->Read(info.name, Box::Whole(info.shape), a.data()).ok());
      ASSERT_TRUE((*file)
                      ->Read(info.name, Box::Whole(info.shape), DType::kF32,
                             std::as_writable_bytes(std::span(b)).data())
                      .ok());
      ASSERT_EQ(a, b) << info.name;
    }
    missing.erase((*source)->config().family());
  }
  EXPECT_TRUE(missing.empty()) << "no fixture of " << *missing.begin();
}

TEST(WeightSourceFixtureTest, TheStories260kWeightsAreRead) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  const auto source =
      WeightSource::Open((fs::path(shared) / "data/weights_stories260k/stories260K.bin").string());
  ASSERT_TRUE(source.ok()) << source.status().message();
  EXPECT_EQ((*source)->config().hidden_size(), 64);
  EXPECT_EQ((*source)->config().intermediate_size(), 172);
  EXPECT_EQ((*source)->config().num_key_value_heads(), 4);
  EXPECT_EQ((*source)->training_length(), 512);
  for (const TensorInfo& info : (*source)->tensors()) {
    std::vector<float> values(ElementCount(info.shape));
    EXPECT_TRUE((*source)->Read(info.name, Box::Whole(info.shape), values.data()).ok());
  }
}

}  // namespace
}  // namespace trireme
