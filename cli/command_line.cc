#include "cli/command_line.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <limits>
#include <type_traits>

#include "cluster/base/status.h"

namespace trireme {
namespace {

// CLI11 takes a number beyond a type's range for the largest one, or says no more than that it
// cannot be converted; a negative one it wraps where the type has none.
template <typename T>
CommandOption InRange(CLI::Option* option) {
  option->check([](const std::string& text) -> std::string {
    T value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool is_negative = std::is_unsigned_v<T> && text.starts_with('-');
    if (parsed.ec != std::errc::result_out_of_range && !is_negative) return "";
    return StrCat(text, ": expected a whole number from ", std::numeric_limits<T>::min(), " to ",
                  std::numeric_limits<T>::max());
  });
  return CommandOption(option);
}

}  // namespace

CommandOption& CommandOption::Required(bool required) {
  option_->required(required);
  return *this;
}
CommandOption& CommandOption::ShowDefault() {
  option_->capture_default_str();
  return *this;
}
CommandOption& CommandOption::OneValueEach() {
  option_->allow_extra_args(false);
  return *this;
}
CommandOption& CommandOption::OneOf(const std::vector<std::string>& values) {
  option_->check(CLI::IsMember(values));
  return *this;
}
CommandOption& CommandOption::Range(int64_t least, int64_t most) {
  option_->check(CLI::Range(least, most));
  return *this;
}
CommandOption& CommandOption::Positive() {
  option_->check(CLI::PositiveNumber);
  return *this;
}
CommandOption& CommandOption::Excludes(const CommandOption& other) {
  option_->excludes(other.option_);
  return *this;
}
int64_t CommandOption::count() const { return static_cast<int64_t>(option_->count()); }

CommandOption CommandLine::Add(const std::string& name, std::string& value,
                               const std::string& help) {
  return CommandOption(app_->add_option(name, value, help));
}
CommandOption CommandLine::Add(const std::string& name, int32_t& value, const std::string& help) {
  return InRange<int32_t>(app_->add_option(name, value, help));
}
CommandOption CommandLine::Add(const std::string& name, int64_t& value, const std::string& help) {
  return InRange<int64_t>(app_->add_option(name, value, help));
}
CommandOption CommandLine::Add(const std::string& name, uint64_t& value, const std::string& help) {
  return InRange<uint64_t>(app_->add_option(name, value, help));
}
CommandOption CommandLine::Add(const std::string& name, double& value, const std::string& help) {
  return CommandOption(app_->add_option(name, value, help));
}
CommandOption CommandLine::Add(const std::string& name, std::optional<int32_t>& value,
                               const std::string& help) {
  return InRange<int32_t>(app_->add_option(name, value, help));
}
CommandOption CommandLine::Add(const std::string& name, std::vector<std::string>& values,
                               const std::string& help) {
  return CommandOption(app_->add_option(name, values, help));
}
CommandOption CommandLine::Add(const std::string& name, std::vector<int32_t>& values,
                               const std::string& help) {
  return InRange<int32_t>(app_->add_option(name, values, help));
}
CommandOption CommandLine::Flag(const std::string& name, bool& value, const std::string& help) {
  return CommandOption(app_->add_flag(name, value, help));
}
CommandOption CommandLine::Find(const std::string& name) {
  return CommandOption(app_->get_option(name));
}

CommandLine CommandLine::Subcommand(const std::string& name, const std::string& summary) {
  app_->require_subcommand(1);
  return CommandLine(app_->add_subcommand(name, summary));
}
void CommandLine::Footer(const std::string& text) { app_->footer(text); }
bool CommandLine::parsed() const { return app_->parsed(); }

}  // namespace trireme
