#include "cluster/base/status.h"

namespace trireme {

Status Status::WithContext(std::string_view context) const {
  if (ok()) return *this;
  return Status(code_, StrCat(context, ": ", message_));
}

Status InvalidArgumentError(std::string m) { return {StatusCode::kInvalidArgument, std::move(m)}; }
Status NotBuiltError(std::string m) { return {StatusCode::kNotBuilt, std::move(m)}; }
Status NotFoundError(std::string m) { return {StatusCode::kNotFound, std::move(m)}; }
Status DataLossError(std::string m) { return {StatusCode::kDataLoss, std::move(m)}; }
Status StorageError(std::string m) { return {StatusCode::kStorage, std::move(m)}; }
Status UnavailableError(std::string m) { return {StatusCode::kUnavailable, std::move(m)}; }
Status DeadlineExceededError(std::string m) {
  return {StatusCode::kDeadlineExceeded, std::move(m)};
}
Status StoppedError(std::string m) { return {StatusCode::kStopped, std::move(m)}; }
Status InternalError(std::string m) { return {StatusCode::kInternal, std::move(m)}; }

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
