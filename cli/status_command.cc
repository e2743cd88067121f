// trireme status RUN_DIR: a run seen from any terminal.
#include <iostream>

#include "cli/command.h"
#include "coordinator/run_status.h"

namespace trireme {
namespace {

struct StatusOptions {
  std::string run_dir;
  int events = 10;
  bool json = false;
};

Status PrintStatus(const StatusOptions& options) {
  ASSIGN_OR_RETURN(const RunStatus status, ReadRunStatus(options.run_dir, options.events));
  std::cout << (options.json ? RunStatusJson(status) + "\n" : RunStatusText(status));
  return OkStatus();
}

const RegisterCommand kStatusCommand(
    {"status", "show a run: its members, step, rates and last events", "trireme status runs/demo",
     [](CommandLine& line) -> std::function<Status()> {
       const auto options = std::make_shared<StatusOptions>();
       line.Add("run_dir", options->run_dir, "the run's folder (run.dir)").Required();
       line.Add("--events", options->events, "how many events to show")
           .Range(0, 1'000'000)
           .ShowDefault();
       line.Flag("--json", options->json, "print one JSON object");
       return [options] { return PrintStatus(*options); };
     }});

}  // namespace
}  // namespace trireme
