#include "cluster/base/fault.h"

#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <vector>

namespace trireme {
namespace {

// The whole of `text` as a number from 0 up.
template <typename Number>
bool ReadNumber(std::string_view text, Number* value) {
  const char* end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, *value);
  return error == std::errc() && stopped == end && *value >= 0;
}

std::vector<std::string_view> Split(std::string_view text) {
  std::vector<std::string_view> fields;
  for (size_t colon; (colon = text.find(':')) != std::string_view::npos;) {
    fields.push_back(text.substr(0, colon));
    text.remove_prefix(colon + 1);
  }
  fields.push_back(text);
  return fields;
}

}  // namespace

Result<PlannedFault> ParseFault(const std::string& text) {
  const std::vector<std::string_view> fields = Split(text);
  PlannedFault fault;
  bool good = fields.size() == 4 && ReadNumber(fields[0], &fault.rank) &&
              ReadNumber(fields[1], &fault.step) && !fields[2].empty();
  if (good) {
    fault.point = fields[2];
    fault.action = fields[3];
    good = fault.action == "kill" || fault.action == "stop" || fault.action == "hang" ||
           fault.action == "silent" || fault.action == "flip";
  }
  if (good) return fault;
  return InvalidArgumentError(StrCat(
      "TRIREME_FAULT='", text, "': expected RANK:STEP:POINT:kill|stop|hang|silent|flip, such as ",
      "3:7:pipeline.backward:kill"));
}

Result<PlannedFault> FaultFromEnvironment() {
  const char* text = std::getenv("TRIREME_FAULT");
  return text == nullptr ? PlannedFault{} : ParseFault(text);
}

void FaultPoint(const PlannedFault& fault, int rank, int64_t step, std::string_view point) {
  if (!fault.At(rank, step, point)) return;
  if (fault.action == "kill") kill(getpid(), SIGKILL);
  if (fault.action == "stop") kill(getpid(), SIGSTOP);
  while (fault.action == "hang") pause();
}

}  // namespace trireme
