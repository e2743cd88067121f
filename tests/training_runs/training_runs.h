// Whole runs of the program, as processes under mpirun and as threads.
#pragma once

#include <gmock/gmock.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/cli/small_run.h"

namespace trireme {

inline constexpr char kTrainingRun[] = R"(
run: {dir: quiet, seed: 3}
batch: {sequences: 8, microbatch_sequences: 1}
lr_schedule: {warmup_steps: 3, steps: 12}
checkpoint: {every_steps: 4, keep: 5}
validation: {every_steps: 4, batches: 2}
threads: 1
)";

// Runs of four layers for twelve steps, with checkpoints and validation every fourth.
class TrainingRunsTest : public testing::Test {
 protected:
  void SetUp() override {
    MakeSmallCorpus(place_);
    place_.Write("run.yaml", ModelAndData({.layers = 4}) + kTrainingRun);
  }

  Outcome Train(const std::string& arguments, const std::string& before = "") {
    return place_.Run("train run.yaml " + arguments, before);
  }
  static std::string Mpirun(int processes, const std::string& environment = "") {
    return "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
           "PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 " +
           environment +
           " timeout 100 " TRIREME_MPIEXEC " --map-by :OVERSUBSCRIBE --bind-to none -n " +
           std::to_string(processes);
  }
  // run.dir's checkpoint of that step, or a file in it.
  static std::string Checkpoint(const std::string& run, int step, const std::string& file = "") {
    char folder[64];
    snprintf(folder, sizeof(folder), "/checkpoints/step_%08d/", step);
    return run + folder + file;
  }
  std::string Hash(const std::string& run) {
    const Outcome outcome = place_.Run("checkpoint hash " + run + " --json");
    EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
    return outcome.out;
  }
  std::vector<nlohmann::json> Lines(const std::string& file) {
    std::vector<nlohmann::json> lines;
    std::ifstream in(place_.Path(file));
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }
  nlohmann::json LastEvent(const std::string& run, const std::string& kind) {
    nlohmann::json last;
    for (const auto& event : Lines(run + "/events.jsonl")) {
      if (event["kind"] == kind) last = event;
    }
    return last;
  }
  static constexpr const char* kReproducible[] = {"loss", "grad_norm", "lr", "tokens",
                                                  "validation_loss"};
  // metrics.jsonl without what depends on time.
  std::string Losses(const std::string& run) {
    std::string losses;
    for (const auto& line : Lines(run + "/metrics.jsonl")) {
      losses += line["step"].dump();
      for (const char* key : kReproducible) {
        if (line.contains(key)) losses += " " + line[key].dump();
      }
      losses += "\n";
    }
    return losses;
  }
  // The same by name: "loss of step 3".
  std::map<std::string, double> Values(const std::string& run) {
    std::map<std::string, double> values;
    for (const auto& line : Lines(run + "/metrics.jsonl")) {
      for (const char* key : kReproducible) {
        if (!line.contains(key)) continue;
        values[std::string(key) + " of step " + line["step"].dump()] = line[key];
      }
    }
    return values;
  }

  Workplace place_;
};

}  // namespace trireme
