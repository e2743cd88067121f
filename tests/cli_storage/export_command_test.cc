#include <gmock/gmock.h>
#include <sys/mount.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "proto/config.pb.h"
#include "tests/cli/program.h"
#include "tests/worker_model_io/model_files.h"

namespace trireme {
namespace {

using ::testing::HasSubstr;

namespace fs = std::filesystem;

class ExportCommandTest : public testing::Test {
 protected:
  ExportCommandTest() {
    WriteHuggingFace(place_.Path("model").string(), SmallGpt2(), RandomWeights(SmallGpt2()));
  }
  std::string Error(const std::string& arguments, int exit_code, const std::string& before = "") {
    const Outcome outcome = place_.Run("export " + arguments, before);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    return outcome.err;
  }
  size_t Entries(const std::string& folder) {
    return std::distance(fs::directory_iterator(place_.Path(folder)), fs::directory_iterator());
  }

  Workplace place_;
};

TEST_F(ExportCommandTest, AnExportReplacesAnEarlierOneAndNothingElse) {
  const Outcome first = place_.Run("export --model model --out out/hf --json");
  EXPECT_EQ(first.exit_code, 0) << first.err;
  const auto report = nlohmann::json::parse(first.out);
  EXPECT_EQ(report["dtype"], "float32");
  EXPECT_EQ(report["tensors"], 28);
  EXPECT_EQ(place_.Read("out/hf/model.safetensors"), place_.Read("model/model.safetensors"));
  EXPECT_EQ(Entries("out"), 1u);
  const Outcome again = place_.Run("export --model model --dtype bfloat16 --out out/hf/");
  EXPECT_EQ(again.exit_code, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("bfloat16"));
  EXPECT_LT(fs::file_size(place_.Path("out/hf/model.safetensors")), report["bytes"]);
  EXPECT_EQ(Entries("out"), 1u) << "leftovers";
  place_.Write("precious/notes.txt", "mine");
  EXPECT_THAT(Error("--model model --out precious", 2),
              HasSubstr("precious: holds other files: notes.txt; expected a new or empty folder"));
  EXPECT_EQ(place_.Read("precious/notes.txt"), "mine");
  EXPECT_THAT(Error("--model out/hf --out out/hf", 2), HasSubstr("is the model itself"));
  EXPECT_THAT(Error("--model model --out precious/notes.txt", 2), HasSubstr("is a file"));
}

// A folder is replaced whole: what somebody put beside the model would go with it.
TEST_F(ExportCommandTest, WhatLiesBesideAnEarlierExportIsKept) {
  ASSERT_EQ(place_.Run("export --model model --out hf").exit_code, 0);
  for (const std::string name : {"README.md", "model-1-of-2.safetensors", "logs/a.txt"}) {
    place_.Write("hf/" + name, "mine");
    EXPECT_THAT(Error("--model model --out hf", 2),
                HasSubstr("hf: holds other files: " + name.substr(0, name.find('/')) + ";"));
    EXPECT_EQ(place_.Read("hf/" + name), "mine");
    fs::remove_all(place_.Path("hf/" + name.substr(0, name.find('/'))));
  }
  for (const char* own : {"model-00001-of-00002.safetensors", "tokenizer_config.json"}) {
    place_.Write(std::string("hf/") + own, "of an earlier export");
  }
  EXPECT_EQ(place_.Run("export --model model --out hf").exit_code, 0);
  EXPECT_FALSE(place_.Exists("hf/model-00001-of-00002.safetensors"));
}

TEST_F(ExportCommandTest, AFullDiskLeavesNothing) {
  const fs::path disk = place_.Path("disk");
  fs::create_directory(disk);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=8k") != 0) {
    GTEST_SKIP() << "no tmpfs of our own: " << std::strerror(errno);
  }
  const std::string error = Error("--model model --out disk/hf", 4);
  EXPECT_THAT(error, HasSubstr("model.safetensors: cannot be written: No space left on device"));
  EXPECT_EQ(Entries("disk"), 0u);
  ::umount(disk.c_str());
}

TEST_F(ExportCommandTest, BadModelsLeaveNothing) {
  NamedTensors weights = RandomWeights(SmallGpt2());
  weights["transformer.ln_f.bias"].values[1] = std::nanf("");
  WriteHuggingFace(place_.Path("nan").string(), SmallGpt2(), weights);
  EXPECT_THAT(Error("--model nan --out hf", 3),
              HasSubstr("nan/model.safetensors: tensor transformer.ln_f.bias[1] is nan"));
  fs::resize_file(place_.Path("nan/model.safetensors"), 3000);
  EXPECT_THAT(Error("--model nan --out hf", 3), HasSubstr("nan/model.safetensors: "));
  EXPECT_THAT(Error("--model missing --out hf", 3), HasSubstr("model missing: no such file"));
  EXPECT_THAT(Error("--model model --format gguf --out hf", 2), HasSubstr("not built yet"));
  EXPECT_THAT(Error("--model model --format onnx --out hf", 2), HasSubstr("expected hf or gguf"));
  EXPECT_THAT(Error("--model model --dtype int8 --out hf", 2), HasSubstr("expected auto, float32"));
  EXPECT_FALSE(place_.Exists("hf"));
}

// The exported folder in transformers: the same logits as the original, bit for bit.
TEST_F(ExportCommandTest, TransformersLoadsItWithEqualLogits) {
  if (std::system("python3 -c 'import torch, transformers' 2>/dev/null") != 0) {
    GTEST_SKIP() << "python3 has no torch and transformers";
  }
  WriteLlama2c(place_.Path("llama.bin").string(), SmallLlama(), RandomWeights(SmallLlama()));
  WriteHuggingFace(place_.Path("llama").string(), SmallLlama(), RandomWeights(SmallLlama()));
  ASSERT_EQ(place_.Run("export --model model --out a").exit_code, 0);
  ASSERT_EQ(place_.Run("export --model llama.bin --out b").exit_code, 0);
  place_.Write("compare.py", R"(
import torch
from transformers import AutoModelForCausalLM
x = torch.arange(24).view(2, 12)
for a, b in (("model", "a"), ("llama", "b")):
    left, right = (AutoModelForCausalLM.from_pretrained(m) for m in (a, b))
    with torch.no_grad():
        assert torch.equal(left(x).logits, right(x).logits), (a, b)
)");
  EXPECT_EQ(std::system(("cd " + place_.Path("").string() + " && python3 compare.py").c_str()), 0);
}

}  // namespace
}  // namespace trireme
