// trireme: one program from raw text to a trained model. Parses the command line and turns the
// command's Status into a line and an exit code.
#include <algorithm>
#include <array>
#include <exception>
#include <iostream>
#include <map>

#include "cli/command.h"
#include "worker/model/model_config.h"

namespace trireme {

std::vector<Command>& Commands() {
  static auto* commands = new std::vector<Command>;
  return *commands;
}

namespace {

// Every command of the interface, in the order of the workflow. Names without a registered command
// are refused as "not built yet".
constexpr std::array kCommandNames = {"doctor", "clean",  "tokenizer",  "pack",   "plan",
                                      "train",  "launch", "status",     "eval",   "generate",
                                      "chat",   "score",  "embed",      "export", "quantize",
                                      "prune",  "serve",  "checkpoint", "config"};

const Command* Find(const std::string& name) {
  for (const Command& command : Commands()) {
    if (command.name == name) return &command;
  }
  return nullptr;
}

// A message may quote its input: whatever that holds, it stays one line.
std::string OneLine(std::string message) {
  for (char& c : message) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return message;
}

// A word that is no command, refused with the nearest one.
Status CheckCommandName(int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-') return OkStatus();
  const std::string word = argv[1];
  const std::vector<std::string> names(kCommandNames.begin(), kCommandNames.end());
  if (std::find(names.begin(), names.end(), word) == names.end()) {
    const std::string nearest = NearestName(word, names);
    return InvalidArgumentError(StrCat(word, ": no such command",
                                       nearest.empty() ? "" : "; did you mean " + nearest + "?",
                                       " (see trireme --help)"));
  }
  if (Find(word) == nullptr) return NotBuiltError(word + ": not built yet");
  return OkStatus();
}

int Run(int argc, char** argv) {
  if (const Status status = CheckCommandName(argc, argv); !status.ok()) {
    std::cerr << "trireme: " << OneLine(status.message()) << "\n";
    return ExitCode(status);
  }
  CLI::App app{"trireme: pretrains, evaluates and serves large language models"};
  app.set_version_flag("--version", "trireme 0.1.0");
  app.require_subcommand(1);
  std::map<const CLI::App*, std::function<Status()>> runs;
  for (const char* name : kCommandNames) {
    const Command* command = Find(name);
    if (command == nullptr) continue;
    CLI::App* sub = app.add_subcommand(command->name, command->summary);
    sub->footer("Example:\n  " + command->example + "\n");
    runs[sub] = command->setup(*sub);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      return app.exit(error);  // --help, --version
    }
    std::cerr << "trireme: " << OneLine(error.what()) << " (see trireme "
              << (argc > 1 && Find(argv[1]) != nullptr ? std::string(argv[1]) + " " : "")
              << "--help)\n";
    return 2;
  }
  for (const CLI::App* sub : app.get_subcommands()) {
    const Status status = runs[sub]();
    if (!status.ok() && !status.message().empty()) {
      std::cerr << "trireme " << sub->get_name() << ": " << OneLine(status.message()) << "\n";
    }
    return ExitCode(status);
  }
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  FLAGS_logtostderr = true;
  FLAGS_minloglevel = google::GLOG_WARNING;
  try {
    return trireme::Run(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "trireme: internal error: " << error.what() << "\n";
    return 1;
  }
}
