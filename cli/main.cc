// trireme: one program from raw text to a trained model. Parses the command line and turns the
// command's Status into a line and an exit code.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <exception>
#include <iostream>
#include <map>

#include "cli/command.h"
#include "cluster/base/version.h"
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

// The innermost subcommand that was reached.
const CLI::App* Innermost(const CLI::App& app) {
  const CLI::App* at = &app;
  while (!at->get_subcommands().empty()) at = at->get_subcommands().front();
  return at;
}

// "trireme tokenizer train --help".
std::string HelpOf(const CLI::App& app) {
  std::string command;
  for (const CLI::App* at = Innermost(app); at != nullptr && at != &app; at = at->get_parent()) {
    command = " " + at->get_name() + command;
  }
  return "trireme" + command + " --help";
}

// A word that the innermost subcommand does not know, with the nearest of its options and
// subcommands; or what CLI11 says of another mistake.
std::string UsageMistake(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* at = Innermost(app);
  const std::vector<std::string> rest = at->remaining();
  const std::vector<const CLI::App*> subcommands = at->get_subcommands({});
  const bool extra = dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr;
  const bool no_subcommand = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr &&
                             at != &app && !subcommands.empty();
  if (rest.empty() || !(extra || no_subcommand)) return error.what();
  // A value that follows an unknown option is not the mistake.
  const auto option =
      std::find_if(rest.begin(), rest.end(), [](const auto& one) { return one.starts_with("--"); });
  std::string word = extra && option != rest.end() ? *option : rest.front();
  word = word.substr(0, word.find('='));
  std::vector<std::string> names;
  for (const CLI::App* sub : subcommands) names.push_back(sub->get_name());
  for (const CLI::Option* known : at->get_options()) {
    for (const std::string& name : known->get_lnames()) names.push_back("--" + name);
  }
  const std::string nearest = NearestName(word, names);
  return StrCat(word, ": not expected here",
                nearest.empty() ? "" : StrCat("; did you mean ", nearest, "?"));
}

int Run(int argc, char** argv) {
  if (const Status status = CheckCommandName(argc, argv); !status.ok()) {
    std::cerr << "trireme: " << status.message() << "\n";
    return ExitCode(status);
  }
  CLI::App app{"trireme: pretrains, evaluates and serves large language models"};
  app.set_version_flag("--version", ProgramName());
  app.require_subcommand(1);
  std::map<const CLI::App*, std::function<Status()>> runs;
  for (const char* name : kCommandNames) {
    const Command* command = Find(name);
    if (command == nullptr) continue;
    CLI::App* sub = app.add_subcommand(command->name, command->summary);
    sub->footer("Example:\n  " + command->example + "\n");
    CommandLine line(sub);
    runs[sub] = command->setup(line);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == static_cast<int>(CLI::ExitCodes::Success)) {
      return app.exit(error);  // --help, --version
    }
    const Status mistake =
        InvalidArgumentError(StrCat(UsageMistake(app, error), " (see ", HelpOf(app), ")"));
    std::cerr << "trireme: " << mistake.message() << "\n";
    return ExitCode(mistake);
  }
  for (const CLI::App* sub : app.get_subcommands()) {
    Status status = runs[sub]();
    std::cout.flush();
    if (status.ok() && (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout)) {
      status = StorageError("stdout cannot be written");
    }
    if (!status.ok() && !status.message().empty()) {
      std::cerr << "trireme " << sub->get_name() << ": " << status.message() << "\n";
    }
    return ExitCode(status);
  }
  return 0;
}

}  // namespace
}  // namespace trireme

int main(int argc, char** argv) {
  // A file that would grow past the shell's limit (ulimit -f) is an error of the write, as a full
  // disk is, and no death.
  std::signal(SIGXFSZ, SIG_IGN);
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
