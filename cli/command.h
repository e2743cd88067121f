// How a subcommand joins the program: one file a subcommand, registered at start.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/command_line.h"
#include "cluster/base/status.h"

namespace trireme {

// A subcommand. `setup` declares its options on `line` and returns what runs once they are parsed;
// options live in a shared struct captured by both. An error ends the process with one line on
// stderr ("trireme clean: ...") and the exit code of its status.
struct Command {
  std::string name;     // "clean"
  std::string summary;  // one line
  std::string example;  // shown at the end of --help; it works as printed
  std::function<std::function<Status()>(CommandLine& line)> setup;
};

// All commands that registered, in no particular order.
std::vector<Command>& Commands();

// At namespace scope of cli/<name>_command.cc: static RegisterCommand command({...});
struct RegisterCommand {
  explicit RegisterCommand(Command command) { Commands().push_back(std::move(command)); }
};

}  // namespace trireme
