#include "cluster/base/status.h"

#include <algorithm>
#include <array>
#include <cstdio>

namespace trireme {
namespace {

// Messages quote files, and files hold anything: line ends and other control characters are
// spelled out, so that an error stays one line.
std::string OneLine(std::string message) {
  const auto is_control = [](char c) { return (c >= 0 && c < ' ') || c == 0x7f; };
  if (std::find_if(message.begin(), message.end(), is_control) == message.end()) return message;
  std::string line;
  for (const char c : message) {
    std::array<char, 8> code{};
    if (c == '\n') {
      line += "\\n";
    } else if (c == '\r') {
      line += "\\r";
    } else if (c == '\t') {
      line += "\\t";
    } else if (is_control(c)) {
      snprintf(code.data(), code.size(), "\\x%02x", static_cast<unsigned char>(c));
      line += code.data();
    } else {
      line += c;
    }
  }
  return line;
}

}  // namespace

Status Status::WithContext(std::string_view context) const {
  if (ok()) return *this;
  return Status(code_, OneLine(StrCat(context, ": ", message_)));
}

Status InvalidArgumentError(std::string m) {
  return {StatusCode::kInvalidArgument, OneLine(std::move(m))};
}
Status NotBuiltError(std::string m) { return {StatusCode::kNotBuilt, OneLine(std::move(m))}; }
Status NotFoundError(std::string m) { return {StatusCode::kNotFound, OneLine(std::move(m))}; }
Status DataLossError(std::string m) { return {StatusCode::kDataLoss, OneLine(std::move(m))}; }
Status StorageError(std::string m) { return {StatusCode::kStorage, OneLine(std::move(m))}; }
Status UnavailableError(std::string m) { return {StatusCode::kUnavailable, OneLine(std::move(m))}; }
Status DeadlineExceededError(std::string m) {
  return {StatusCode::kDeadlineExceeded, OneLine(std::move(m))};
}
Status StoppedError(std::string m) { return {StatusCode::kStopped, OneLine(std::move(m))}; }
Status InternalError(std::string m) { return {StatusCode::kInternal, OneLine(std::move(m))}; }

int ExitCode(const Status& status) {
  switch (status.code()) {
    case StatusCode::kOk:
      return 0;
    case StatusCode::kInvalidArgument:
    case StatusCode::kNotBuilt:
      return 2;
    case StatusCode::kNotFound:
    case StatusCode::kDataLoss:
      return 3;
    case StatusCode::kStorage:
      return 4;
    case StatusCode::kUnavailable:
    case StatusCode::kDeadlineExceeded:
      return 5;
    case StatusCode::kStopped:
      return 75;
    case StatusCode::kInternal:
      return 1;
  }
  return 1;
}

const char* StatusCodeName(StatusCode code) {
  switch (code) {
    case StatusCode::kOk:
      return "ok";
    case StatusCode::kInvalidArgument:
      return "invalid argument";
    case StatusCode::kNotBuilt:
      return "not built yet";
    case StatusCode::kNotFound:
      return "not found";
    case StatusCode::kDataLoss:
      return "bad data";
    case StatusCode::kStorage:
      return "storage";
    case StatusCode::kUnavailable:
      return "unavailable";
    case StatusCode::kDeadlineExceeded:
      return "deadline exceeded";
    case StatusCode::kStopped:
      return "stopped on request";
    case StatusCode::kInternal:
      return "internal error";
  }
  return "unknown";
}

}  // namespace trireme
