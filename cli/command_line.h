// What a command takes on its line. CLI11 parses, and one file knows it: its templates are most of
// what a small command would cost to compile.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace trireme {

// An option as it is declared. A handle, as long as the program's.
class CommandOption {
 public:
  explicit CommandOption(CLI::Option* option) : option_(option) {}

  CommandOption& Required(bool required = true);
  CommandOption& ShowDefault();  // in --help
  // Of a list: every value has the option's name before it.
  CommandOption& OneValueEach();
  CommandOption& OneOf(const std::vector<std::string>& values);
  CommandOption& Range(int64_t least, int64_t most);
  CommandOption& Positive();
  CommandOption& Excludes(const CommandOption& other);
  // How often it was given.
  int64_t count() const;

 private:
  CLI::Option* option_;
};

// A command or subcommand whose options are being declared. A handle. Values are written when the
// line is parsed: they live as long as what runs the command.
class CommandLine {
 public:
  explicit CommandLine(CLI::App* app) : app_(app) {}

  // name: "--workers", or "store" for what is told by its place.
  CommandOption Add(const std::string& name, std::string& value, const std::string& help = "");
  CommandOption Add(const std::string& name, int32_t& value, const std::string& help = "");
  CommandOption Add(const std::string& name, int64_t& value, const std::string& help = "");
  CommandOption Add(const std::string& name, uint64_t& value, const std::string& help = "");
  CommandOption Add(const std::string& name, double& value, const std::string& help = "");
  CommandOption Add(const std::string& name, std::optional<int32_t>& value,
                    const std::string& help = "");
  CommandOption Add(const std::string& name, std::vector<std::string>& values,
                    const std::string& help = "");
  CommandOption Add(const std::string& name, std::vector<int32_t>& values,
                    const std::string& help = "");
  CommandOption Flag(const std::string& name, bool& value, const std::string& help = "");
  // One that was declared before.
  CommandOption Find(const std::string& name);

  // One of the subcommands must be given.
  CommandLine Subcommand(const std::string& name, const std::string& summary);
  void Footer(const std::string& text);  // of --help
  bool parsed() const;                   // whether this subcommand was given

 private:
  CLI::App* app_;
};

}  // namespace trireme
