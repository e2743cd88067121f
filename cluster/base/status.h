// Status and Result: how expected failures travel. Bugs do not: they are CHECKs.
#pragma once

#include <glog/logging.h>

#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

namespace trireme {

// What went wrong, seen from the user. Each code has one process exit code (interface.md of the
// commands): see ExitCode().
enum class StatusCode {
  kOk,
  kInvalidArgument,  // usage, configuration, an impossible layout: exit 2
  kNotBuilt,         // a name of the interface that this build does not have: exit 2
  kNotFound,         // a file or a name that does not exist; callers turn it into one of the others
  kDataLoss,     // token files, corpora, weights missing, truncated, corrupt, not finite: exit 3
  kStorage,      // a full disk, an unwritable or unreachable store: exit 4
  kUnavailable,  // a lost peer; a cluster that could not be kept going: exit 5
  kDeadlineExceeded,  // a wait ran out; exit 5
  kStopped,           // stopped on request, with a checkpoint: exit 75
  kInternal,          // exit 1
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == StatusCode::kOk; }
  StatusCode code() const { return code_; }
  // One line for people: the place, the value, what was expected.
  const std::string& message() const { return message_; }
  // The same status with "context: " put before its message.
  Status WithContext(std::string_view context) const;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

inline Status OkStatus() { return Status(); }

// The message of each is one line for people; StrCat() below builds it.
Status InvalidArgumentError(std::string message);
Status NotBuiltError(std::string message);
Status NotFoundError(std::string message);
Status DataLossError(std::string message);
Status StorageError(std::string message);
Status UnavailableError(std::string message);
Status DeadlineExceededError(std::string message);
Status StoppedError(std::string message);
Status InternalError(std::string message);

// The exit code of a process that ends with `status`.
int ExitCode(const Status& status);
const char* StatusCodeName(StatusCode code);

// Either a value or the Status that says why there is none.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : data_(std::move(value)) {}        // NOLINT: implicit on purpose
  Result(Status status) : data_(std::move(status)) {  // NOLINT: implicit on purpose
    CHECK(!std::get<Status>(data_).ok()) << "a Result without a value needs an error";
  }

  bool ok() const { return std::holds_alternative<T>(data_); }
  Status status() const { return ok() ? OkStatus() : std::get<Status>(data_); }
  T& value() & {
    CHECK(ok()) << std::get<Status>(data_).message();
    return std::get<T>(data_);
  }
  const T& value() const& {
    CHECK(ok()) << std::get<Status>(data_).message();
    return std::get<T>(data_);
  }
  T&& value() && {
    CHECK(ok()) << std::get<Status>(data_).message();
    return std::move(std::get<T>(data_));
  }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }

 private:
  std::variant<T, Status> data_;
};

// Joins anything streamable into one string.
template <typename... Args>
std::string StrCat(const Args&... args) {
  std::ostringstream out;
  (out << ... << args);
  return out.str();
}

#define TRIREME_CONCAT_INNER(a, b) a##b
#define TRIREME_CONCAT(a, b) TRIREME_CONCAT_INNER(a, b)

#define RETURN_IF_ERROR(expression)                  \
  do {                                               \
    ::trireme::Status status_of_call = (expression); \
    if (!status_of_call.ok()) return status_of_call; \
  } while (false)

#define ASSIGN_OR_RETURN_IMPL(result, target, expression) \
  auto result = (expression);                             \
  if (!result.ok()) return result.status();               \
  target = std::move(result).value()

// ASSIGN_OR_RETURN(auto file, OpenFile(path));
#define ASSIGN_OR_RETURN(target, expression) \
  ASSIGN_OR_RETURN_IMPL(TRIREME_CONCAT(result_, __LINE__), target, expression)

}  // namespace trireme
