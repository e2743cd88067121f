#include "cluster/rpc/endpoint.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace trireme {
namespace {

// The value of "key": "value" in a small JSON object written by WriteEndpoint; the values hold no
// characters that JSON would escape.
std::string Field(const std::string& text, const std::string& key) {
  const size_t at = text.find(StrCat("\"", key, "\""));
  if (at == std::string::npos) return "";
  const size_t open = text.find('"', text.find(':', at));
  const size_t close = open == std::string::npos ? open : text.find('"', open + 1);
  if (close == std::string::npos) return "";
  return text.substr(open + 1, close - open - 1);
}

}  // namespace

std::string EndpointPath(const std::string& run_dir) {
  return run_dir + "/journal/coordinator.json";
}

Status WriteEndpoint(const std::string& path, const Endpoint& endpoint) {
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  const std::string temporary = StrCat(path, ".", getpid(), ".tmp");
  unlink(temporary.c_str());
  const int file = open(temporary.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
  if (file < 0) return StorageError(StrCat(temporary, ": ", strerror(errno)));
  const std::string text =
      StrCat("{\"address\": \"", endpoint.address, "\", \"secret\": \"", endpoint.secret, "\"}\n");
  const bool written = write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       fsync(file) == 0;
  const int error = errno;
  close(file);
  if (!written || rename(temporary.c_str(), path.c_str()) != 0) {
    const int why = written ? errno : error;
    unlink(temporary.c_str());
    return StorageError(StrCat(path, ": ", strerror(why)));
  }
  return OkStatus();
}

Result<Endpoint> ReadEndpoint(const std::string& path) {
  std::ifstream file(path);
  if (!file) return NotFoundError(StrCat(path, ": no coordinator has written its address here"));
  std::ostringstream text;
  text << file.rdbuf();
  Endpoint endpoint{Field(text.str(), "address"), Field(text.str(), "secret")};
  if (endpoint.address.empty() || endpoint.secret.empty()) {
    return DataLossError(StrCat(path, ": expected {\"address\": ..., \"secret\": ...}"));
  }
  return endpoint;
}

Status SplitAddress(const std::string& address, std::string* host, uint16_t* port) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    return InvalidArgumentError(StrCat("address '", address, "': expected host:port"));
  }
  *host = address.substr(0, colon);
  if (host->front() == '[' && host->back() == ']') *host = host->substr(1, host->size() - 2);
  const char* first = address.data() + colon + 1;
  const char* last = address.data() + address.size();
  const auto [end, error] = std::from_chars(first, last, *port);
  if (error != std::errc() || end != last) {
    return InvalidArgumentError(StrCat("address '", address, "': expected a port of 0 to 65535"));
  }
  return OkStatus();
}

}  // namespace trireme
