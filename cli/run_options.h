// Options that commands share, declared once so that they read the same everywhere.
#pragma once

#include <string>
#include <vector>

#include "cli/command_line.h"

namespace trireme {

// A run.yaml on the command line and what overrides it: LoadConfig(run.path, run.overrides).
struct RunFileOptions {
  std::string path;
  std::vector<std::string> overrides;
};

inline void AddRunFileOptions(CommandLine& line, RunFileOptions* run, bool is_required) {
  line.Add("run_yaml", run->path, "the run's YAML").Required(is_required);
  line.Add("--set", run->overrides, "section.key=value overrides the YAML; repeatable")
      .OneValueEach();
}

// Of commands that read texts.
inline void AddDocumentLimit(CommandLine& line, int64_t* document_mib_max) {
  line.Add("--max-document-mib", *document_mib_max,
           "Refuse larger documents; bounds the memory (default: 256)")
      .Range(1, 1024);
}

inline void AddJsonOption(CommandLine& line, bool* json) {
  line.Flag("--json", *json, "print one JSON object and nothing else");
}

}  // namespace trireme
