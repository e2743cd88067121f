#include "worker/model/hugging_face_export.h"

#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "proto/config.pb.h"
#include "tests/storage/faulty_store.h"
#include "tests/storage/temporary_folder.h"
#include "tests/worker_model_io/model_files.h"
#include "worker/model/model_config.h"
#include "worker/model/weight_source.h"

namespace trireme {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

std::unique_ptr<WeightSource> OpenModel(const std::string& model) {
  auto source = WeightSource::Open(model);
  CHECK(source.ok()) << source.status().message();
  return std::move(source).value();
}

// The tensors of two models under the same names with the same bits and types.
void ExpectSameTensors(const WeightSource& a, const WeightSource& b) {
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const TensorInfo& info : a.tensors()) {
    std::vector<float> x(ElementCount(info.shape)), y(x.size());
    ASSERT_TRUE(a.Read(info.name, Box::Whole(info.shape), x.data()).ok());
    ASSERT_TRUE(b.Read(info.name, Box::Whole(info.shape), y.data()).ok());
    ASSERT_EQ(x, y) << info.name;
  }
}

TEST(HuggingFaceExportTest, WhatIsExportedIsReadAgain) {
  for (const auto& config : {SmallLlama(), SmallGpt2()}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      const TemporaryFolder in, out;
      WriteHuggingFace(in.path(), config, RandomWeights(config), dtype);
      std::ofstream(in / "tokenizer.json")
          << R"({"added_tokens":[{"id":1,"content":"</s>"},{"id":2,"content":"<e>"}]})";
      const auto source = OpenModel(in.path());
      const auto report = ExportHuggingFace(*source, {}, *NewLocalStore(out.path()));
      ASSERT_TRUE(report.ok()) << report.status().message();
      EXPECT_EQ(report->dtype, dtype);
      EXPECT_EQ(report->files, 1);
      EXPECT_EQ(report->bytes, report->parameters * ByteSize(dtype));
      const auto again = OpenModel(out.path());
      ExpectSameTensors(*source, *again);
      EXPECT_EQ(again->tensors()[0].dtype, dtype);
      EXPECT_EQ(again->config().SerializeAsString(), source->config().SerializeAsString());
      EXPECT_EQ(again->tokenizer_path(), out / "tokenizer.json");
      EXPECT_EQ(again->end_ids(), source->end_ids());
      EXPECT_TRUE(fs::exists(out / "tokenizer_config.json"));
    }
  }
}

TEST(HuggingFaceExportTest, LargeModelsAreSharded) {
  const TemporaryFolder in, out;
  const auto config = SmallLlama();
  WriteHuggingFace(in.path(), config, RandomWeights(config));
  const auto source = OpenModel(in.path());
  HuggingFaceExportOptions options;
  options.shard_bytes_max = 4000;
  const auto report = ExportHuggingFace(*source, options, *NewLocalStore(out.path()));
  ASSERT_TRUE(report.ok());
  EXPECT_GT(report->files, 3);
  EXPECT_TRUE(fs::exists(out / StrCat("model-00001-of-0000", report->files, ".safetensors")));
  EXPECT_FALSE(fs::exists(out / "model.safetensors"));
  const auto index = nlohmann::json::parse(
      *ReadObject(*NewLocalStore(out.path()), "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], report->bytes);
  EXPECT_EQ(index["weight_map"].size(), static_cast<size_t>(report->tensors));
  ExpectSameTensors(*source, *OpenModel(out.path()));
}

TEST(HuggingFaceExportTest, BinaryModelsComeOutAsHuggingFaceFolders) {
  const TemporaryFolder folder;
  const auto llama = SmallLlama(true);
  WriteLlama2c(folder / "l.bin", llama, RandomWeights(llama));
  const auto gpt2 = SmallGpt2();
  WriteLlmc(folder / "g.bin", gpt2, RandomWeights(gpt2), 5);
  for (const std::string name : {"l", "g"}) {
    const auto source = OpenModel(folder / (name + ".bin"));
    ASSERT_TRUE(ExportHuggingFace(*source, {}, *NewLocalStore(folder / name)).ok());
    ExpectSameTensors(*source, *OpenModel(folder / name));
  }
}

TEST(HuggingFaceExportTest, AnotherTypeIsWrittenWhenAskedFor) {
  const TemporaryFolder in, out;
  const auto config = SmallLlama();
  WriteHuggingFace(in.path(), config, RandomWeights(config));  // values that bf16 holds exactly
  const auto source = OpenModel(in.path());
  HuggingFaceExportOptions options;
  options.dtype = DType::kBF16;
  ASSERT_TRUE(ExportHuggingFace(*source, options, *NewLocalStore(out.path())).ok());
  ExpectSameTensors(*source, *OpenModel(out.path()));
  EXPECT_THAT(*ReadObject(*NewLocalStore(out.path()), "config.json"), HasSubstr("\"bfloat16\""));
}

TEST(HuggingFaceExportTest, AFullDiskAndBadWeightsEndIt) {
  const TemporaryFolder in;
  const auto config = SmallLlama();
  NamedTensors weights = RandomWeights(config);
  WriteHuggingFace(in.path(), config, weights);
  auto base = NewMemoryStore();
  Faults faults;
  faults.bytes_until_full = 5000;
  FaultyStore store(*base, faults);
  const Status full = ExportHuggingFace(*OpenModel(in.path()), {}, store).status();
  EXPECT_EQ(full.code(), StatusCode::kStorage);
  EXPECT_THAT(full.message(), HasSubstr("model.safetensors: cannot be written: No space left"));
  EXPECT_EQ(faults.fired, 1);
  EXPECT_TRUE(base->List("")->empty());
  weights["model.norm.weight"].values[2] = std::nanf("");
  WriteHuggingFace(in.path(), config, weights);
  const Status nan = ExportHuggingFace(*OpenModel(in.path()), {}, *base).status();
  EXPECT_EQ(nan.code(), StatusCode::kDataLoss);
  EXPECT_THAT(nan.message(), HasSubstr("model.norm.weight[2] is nan"));
}

// The fixtures come from transformers: the export of one is its file again, byte for byte.
TEST(HuggingFaceExportTest, FixturesComeOutAsTheyWere) {
  const char* shared = std::getenv("TRIREME_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "TRIREME_SHARED is not set";
  std::set<std::string> missing(BuiltModelFamilies().begin(), BuiltModelFamilies().end());
  for (const auto& entry : fs::directory_iterator(fs::path(shared) / "fixtures")) {
    if (!fs::exists(entry.path() / "model" / "config.json")) continue;
    SCOPED_TRACE(entry.path());
    const std::string model = (entry.path() / "model").string();
    const auto source = WeightSource::Open(model);
    if (source.status().code() == StatusCode::kNotBuilt) continue;
    if (source.status().code() == StatusCode::kInvalidArgument) continue;  // no family of ours
    ASSERT_TRUE(source.ok()) << source.status().message();
    const TemporaryFolder out;
    ASSERT_TRUE(ExportHuggingFace(**source, {}, *NewLocalStore(out.path())).ok());
    EXPECT_TRUE(*ReadObject(*NewLocalStore(model), "model.safetensors") ==
                *ReadObject(*NewLocalStore(out.path()), "model.safetensors"));
    missing.erase((*source)->config().family());
  }
  EXPECT_TRUE(missing.empty()) << "no fixture of " << *missing.begin();
}

}  // namespace
}  // namespace trireme
