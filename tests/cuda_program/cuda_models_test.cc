// Commands that run a model, with `--device cuda`, on the SIMT backend.
#include <gmock/gmock.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/cuda_program/tiny_run.h"

namespace trireme {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kRun[] = R"(run: {dir: run, seed: 3}
batch: {sequences: 4, microbatch_sequences: 4}
lr_schedule: {warmup_steps: 1, steps: 20}
optimizer: {lr: 2.0e-2}
checkpoint: {every_steps: 20}
validation: {every_steps: 0, batches: 1}
device: cpu
)";

class CudaModelsTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeTinyRun(place_, 50, kRun);
    place_.Write("requests.jsonl", R"({"context": "The oars", "continuation": " of bank"}
{"context_ids": [1, 2, 3], "continuation_ids": [4]}
)");
    place_.Write("feed.sh", "exec \"$@\" <requests.jsonl\n");
    const Outcome outcome = place_.Run("train run.yaml");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.err;
  }
  // What the command prints on a device, a line an element.
  std::vector<json> Run(const std::string& command, const std::string& device,
                        const std::string& before = "") {
    const Outcome outcome = place_.Run(command + " --model run --device " + device, before);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    std::vector<json> lines;
    std::istringstream in(outcome.out);
    for (std::string line; std::getline(in, line);) lines.push_back(json::parse(line));
    return lines;
  }

  Workplace place_;
};

TEST_F(CudaModelsTest, GenerateEvalAndScoreSayWhatTheCpuSays) {
  for (const std::string options : {"--temperature 0", "--seed 5", "--beams 3"}) {
    const std::string command =
        "generate --prompt \"The oars\" --max-tokens 12 --ignore-eos --json " + options;
    const json gpu = Run(command, "cuda").at(0), cpu = Run(command, "cpu").at(0);
    EXPECT_EQ(gpu["ids"].size(), 12u);
    EXPECT_EQ(gpu["ids"], cpu["ids"]) << options;
    EXPECT_EQ(gpu["text"], cpu["text"]) << options;
  }
  const std::string eval = "eval --task perplexity=corpus_validation --json";
  const json gpu = Run(eval, "cuda").at(0), cpu = Run(eval, "cpu").at(0);
  EXPECT_EQ(gpu["tokens"], cpu["tokens"]);
  EXPECT_NEAR(double{gpu["nll_sum"]} / double{cpu["nll_sum"]}, 1.0, 1e-6);
  const auto on_gpu = Run("score", "cuda", "sh feed.sh"),
             on_cpu = Run("score", "cpu", "sh feed.sh");
  ASSERT_EQ(on_cpu.size(), 2u);
  ASSERT_EQ(on_gpu.size(), 2u);
  for (int i : {0, 1}) {
    EXPECT_NEAR(double{on_gpu[i]["logprob"]}, double{on_cpu[i]["logprob"]}, 1e-4);
    EXPECT_EQ(on_gpu[i]["greedy"], on_cpu[i]["greedy"]);
  }
}

TEST_F(CudaModelsTest, ADeviceThatIsNotThereIsOneLine) {
  place_.Write("cpu.sh", "shift; exec '" TRIREME_CPU_PROGRAM "' \"$@\" <requests.jsonl\n");
  for (const std::string command : {"generate --prompt-ids 1,2 --max-tokens 4",
                                    "eval --task perplexity=corpus_validation", "score"}) {
    const Outcome refused = place_.Run(command + " --model run --device cuda", "sh cpu.sh");
    EXPECT_EQ(refused.exit_code, 2);
    EXPECT_EQ(Lines(refused.err), 1) << refused.err;
    EXPECT_THAT(refused.err, HasSubstr("--device cuda: "));
    EXPECT_THAT(refused.err, HasSubstr("; expected a GPU, or --device cpu"));
    const Outcome taken = place_.Run(command + " --model run --device auto", "sh cpu.sh");
    EXPECT_EQ(taken.exit_code, 0) << taken.err;
  }
  const Outcome unknown = place_.Run("score --model run --device tpu");
  EXPECT_EQ(unknown.exit_code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("--device tpu: expected auto, cpu, cuda"));
}

}  // namespace
}  // namespace trireme
