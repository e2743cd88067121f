// Options that commands share, declared once so that they read the same everywhere.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace trireme {

// A run.yaml on the command line and what overrides it: LoadConfig(run.path, run.overrides).
struct RunFileOptions {
  std::string path;
  std::vector<std::string> overrides;
};

inline void AddRunFileOptions(CLI::App& app, RunFileOptions* run, bool is_required) {
  app.add_option("run_yaml", run->path, "the run's YAML")->required(is_required);
  app.add_option("--set", run->overrides, "section.key=value overrides the YAML; repeatable")
      ->allow_extra_args(false);
}

inline void AddJsonOption(CLI::App& app, bool* json) {
  app.add_flag("--json", *json, "print one JSON object and nothing else");
}

}  // namespace trireme
